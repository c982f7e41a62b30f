"""Golden numbers of the LSTM and the CRF, in f64: python tests/golden/make_ss.py > tests/golden/ss.json

Needs torch. The LSTM is torch.nn.LSTM over a packed batch. The CRF is the textbook recursion in log space with torch's
autograd behind it, so neither its forward-backward pass nor its gradient is ours.
"""

import json
import sys

import torch

torch.manual_seed(5)
torch.set_default_dtype(torch.float64)


def numbers(tensor):
    return {"shape": list(tensor.shape), "data": [round(x, 15) for x in tensor.detach().flatten().tolist()]}


def lstm():
    lengths = [4, 7, 1]
    x = torch.randn(3, 7, 3, requires_grad=True)
    net = torch.nn.LSTM(3, 5, batch_first=True, bidirectional=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(net(packed)[0], batch_first=True)
    weigh = torch.randn_like(y)
    (y * weigh).sum().backward()
    weights = dict(net.named_parameters())
    return {
        "lengths": lengths,
        "x": numbers(x),
        "weights": {name: numbers(w) for name, w in weights.items()},
        "y": numbers(y),
        "dy": numbers(weigh),
        "dx": numbers(x.grad),
        "gradients": {name: numbers(w.grad) for name, w in weights.items()},
    }


def log_z(e, transitions, start, end, agrees):
    """log of the sum over the paths whose state at t lies in agrees[t]."""
    alpha = (start + e[0])[agrees[0]]
    for t in range(1, len(e)):
        step = transitions[agrees[t - 1]][:, agrees[t]]
        alpha = torch.logsumexp(alpha[:, None] + step, 0) + e[t][agrees[t]]
    return torch.logsumexp(alpha + end[agrees[-1]], 0)


def crf():
    k, lengths, unknown = 5, [6, 3, 8], 255
    e = torch.randn(3, 8, k, requires_grad=True)
    weights = [torch.randn(s, requires_grad=True) for s in [(k, k), (k,), (k,)]]
    labels = torch.randint(0, k, (3, 8))
    labels[0, 2] = labels[0, 3] = labels[2, 0] = unknown
    every, total, count = list(range(k)), 0.0, 0
    for row, n in enumerate(lengths):
        known = [every if y == unknown else [int(y)] for y in labels[row, :n]]
        total = total + log_z(e[row, :n], *weights, [every] * n) - log_z(e[row, :n], *weights, known)
        count += sum(len(states) == 1 for states in known)
    loss = total / count
    loss.backward()
    return {
        "lengths": lengths,
        "labels": labels.tolist(),
        "emissions": numbers(e),
        "weights": [numbers(w) for w in weights],
        "loss": loss.item(),
        "d_emissions": numbers(e.grad),
        "d_weights": [numbers(w.grad) for w in weights],
    }


json.dump({"torch": torch.__version__, "lstm": lstm(), "crf": crf()}, sys.stdout)
print()
