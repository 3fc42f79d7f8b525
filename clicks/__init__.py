"""How clicks are read, cut into sessions, and written."""
