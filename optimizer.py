r"""Optimizers that update whole parameters and, of item tables, only the rows that took part in a step.

A rule updates a weight and its state in place, element by element, so one definition serves a whole parameter and
copies of a few rows of a table alike. Of a table, weight and state change for the rows that occur in a step and for no
others.

Rules: Adagrad (Duchi et al., 2011) with the momentum of the authors' code; RMSProp, Adadelta, Adam and SGD as in
``torch.optim``, whose defaults they keep where no flag sets them.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from model import Rows

State = tuple[Tensor, ...]
Rule = Callable[[Tensor, Tensor, State, Tensor], None]  # weight, gradient, state, number of the step


def adagrad(lr: float, momentum: float = 0.0, eps: float = 1e-6) -> tuple[Rule, int]:
    r"""Adagrad: :math:`a \leftarrow a + g^2`, then with :math:`u = \eta\, g / \sqrt{a + \epsilon}` either
    :math:`w \leftarrow w - u` or, with momentum, :math:`v \leftarrow \mu v - u, \; w \leftarrow w + v`.

    Epsilon stands under the root, unlike in ``torch.optim.Adagrad``.

    Args:
        lr: :math:`\eta`, the learning rate.
        momentum: :math:`\mu`.
        eps: :math:`\epsilon`.

    Returns:
        The rule, and how many state tensors of a weight's shape it needs (as all rules below).
    """

    def rule(weight: Tensor, grad: Tensor, state: State, step: Tensor) -> None:
        root = state[0].addcmul_(grad, grad).add(eps).sqrt_()
        if momentum == 0:
            weight.addcdiv_(grad, root, value=-lr)
        else:
            weight.add_(state[1].mul_(momentum).addcdiv_(grad, root, value=-lr))

    return rule, 1 if momentum == 0 else 2


def sgd(lr: float, momentum: float = 0.0) -> tuple[Rule, int]:
    r"""SGD as in ``torch.optim.SGD``: :math:`v \leftarrow \mu v + g, \; w \leftarrow w - \eta v`."""

    def rule(weight: Tensor, grad: Tensor, state: State, step: Tensor) -> None:
        velocity = grad if momentum == 0 else state[0].mul_(momentum).add_(grad)
        weight.add_(velocity, alpha=-lr)

    return rule, 0 if momentum == 0 else 1


def rmsprop(lr: float, momentum: float = 0.0, eps: float = 1e-6, alpha: float = 0.99) -> tuple[Rule, int]:
    r"""RMSProp as in ``torch.optim.RMSprop``: :math:`a \leftarrow \alpha a + (1-\alpha) g^2`,
    :math:`v \leftarrow \mu v + g / (\sqrt{a} + \epsilon), \; w \leftarrow w - \eta v`.
    """

    def rule(weight: Tensor, grad: Tensor, state: State, step: Tensor) -> None:
        root = state[0].mul_(alpha).addcmul_(grad, grad, value=1 - alpha).sqrt().add_(eps)
        if momentum == 0:
            weight.addcdiv_(grad, root, value=-lr)
        else:
            weight.add_(state[1].mul_(momentum).addcdiv_(grad, root), alpha=-lr)

    return rule, 1 if momentum == 0 else 2


def adadelta(lr: float, eps: float = 1e-6, rho: float = 0.9) -> tuple[Rule, int]:
    r"""Adadelta as in ``torch.optim.Adadelta``: :math:`a \leftarrow \rho a + (1-\rho) g^2`,
    :math:`u = g \sqrt{d + \epsilon} / \sqrt{a + \epsilon}, \; d \leftarrow \rho d + (1-\rho) u^2,
    \; w \leftarrow w - \eta u`.
    """

    def rule(weight: Tensor, grad: Tensor, state: State, step: Tensor) -> None:
        average, moved = state
        average.mul_(rho).addcmul_(grad, grad, value=1 - rho)
        update = moved.add(eps).div_(average.add(eps)).sqrt_().mul_(grad)
        moved.mul_(rho).addcmul_(update, update, value=1 - rho)
        weight.add_(update, alpha=-lr)

    return rule, 2


def adam(lr: float, eps: float = 1e-6, beta1: float = 0.9, beta2: float = 0.999) -> tuple[Rule, int]:
    r"""Adam as in ``torch.optim.Adam``; on rows of a table, as in ``torch.optim.SparseAdam`` (epsilon aside, which
    that adds before the second bias correction).

    :math:`m \leftarrow \beta_1 m + (1-\beta_1) g, \; a \leftarrow \beta_2 a + (1-\beta_2) g^2`,
    :math:`w \leftarrow w - \eta\, \hat m / (\sqrt{\hat a} + \epsilon)` with
    :math:`\hat m = m / (1-\beta_1^t), \; \hat a = a / (1-\beta_2^t)` and t the number of this step.
    """

    def rule(weight: Tensor, grad: Tensor, state: State, step: Tensor) -> None:
        mean, square = state
        mean.mul_(beta1).add_(grad, alpha=1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = square.div(1 - beta2**step).sqrt_().add_(eps)
        weight.addcdiv_(mean.div(1 - beta1**step), root, value=-lr)

    return rule, 2


def make_rule(name: str, lr: float, momentum: float, eps: float) -> tuple[Rule, int]:
    """The named rule, one of ``OPTIMIZERS``; what it has no use for is ignored."""
    return OPTIMIZERS[name](lr, momentum, eps)


OPTIMIZERS: dict[str, Callable[[float, float, float], tuple[Rule, int]]] = {
    "Adagrad": adagrad,
    "RMSProp": rmsprop,
    "Adadelta": lambda lr, momentum, eps: adadelta(lr, eps),
    "Adam": lambda lr, momentum, eps: adam(lr, eps),
    "SparseAdam": lambda lr, momentum, eps: adam(lr, eps),
    "SGD": lambda lr, momentum, eps: sgd(lr, momentum),
}


class Optimizer:
    """Applies a rule to the network's parameters and to the rows of item tables that took part in a step.

    Args:
        network: parameters that every step updates whole, by name.
        tables: item tables, by name.
        rule: a rule and the number of its state tensors, as the functions above return them.
        weight_decay: this times the weight is added to the gradient, as in ``torch.optim``; of a table, for the rows of
            the step only.
    """

    def __init__(
        self,
        network: dict[str, Tensor],
        tables: dict[str, Tensor],
        rule: tuple[Rule, int],
        weight_decay: float = 0.0,
    ):
        self.network, self.tables = network, tables
        self.rule, n_states = rule
        self.weight_decay = weight_decay
        self.state = {
            name: tuple(torch.zeros_like(weight, requires_grad=False) for _ in range(n_states))
            for name, weight in {**network, **tables}.items()
        }
        self.step_number = torch.zeros((), dtype=torch.float64, device=next(iter(tables.values())).device)

    @torch.no_grad()
    def step(self, rows: list[Rows], row_grads: Iterable[Tensor], network_grads: Iterable[Tensor]) -> None:
        """One update.

        Args:
            rows: the table rows that took part, with the values they still have; they get the new ones.
            row_grads: the gradient of the values of each of ``rows``.
            network_grads: the gradient of each network parameter, in the order of ``network``.
        """
        self.step_number += 1  # not add_, which a compiled step (PyTorch 2.13) leaves out
        for (name, weight), grad in zip(self.network.items(), network_grads, strict=True):
            self._apply(weight, grad, self.state[name])
        for (name, index, values, stand_in), grad in zip(rows, row_grads, strict=True):
            state = self.state[name]
            if stand_in is not None:
                grad = grad.index_select(0, stand_in)  # so that all copies of a row become the same
            row_values, row_state = values.detach(), tuple(tensor.index_select(0, index) for tensor in state)
            self._apply(row_values, grad, row_state)
            self.tables[name].index_copy_(0, index, row_values)
            for tensor, new in zip(state, row_state, strict=True):
                tensor.index_copy_(0, index, new)

    def _apply(self, weight: Tensor, grad: Tensor, state: State) -> None:
        if self.weight_decay != 0:
            grad = torch.add(grad, weight, alpha=self.weight_decay)
        self.rule(weight, grad, state, self.step_number)

    def state_dict(self) -> dict:
        """The step number and all state tensors, as plain containers of tensors."""
        return {"step_number": self.step_number, "state": {name: list(state) for name, state in self.state.items()}}

    @torch.no_grad()
    def load_state_dict(self, saved: dict) -> None:
        """Take over what :meth:`state_dict` gave.

        Raises:
            ValueError: it is of another model or another rule.
        """
        saved_shapes = {name: [tensor.shape for tensor in state] for name, state in saved["state"].items()}
        if saved_shapes != {name: [tensor.shape for tensor in state] for name, state in self.state.items()}:
            raise ValueError("the optimizer state does not fit the model and the optimizer")
        self.step_number.copy_(saved["step_number"])
        for name, state in self.state.items():
            for tensor, saved_tensor in zip(state, saved["state"][name], strict=True):
                tensor.copy_(saved_tensor)
