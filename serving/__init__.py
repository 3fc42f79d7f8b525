"""How a trained model recommends: for sessions as they are or as they happen, here or in another program."""
