"""A checkpoint as PyTorch Lightning writes it, and what the network says: python tests/golden/make_lightning.py

Needs torch and pytorch-crf 0.7.2. Writes lightning.ckpt and lightning.json beside this file. The weights are random: no
Lightning is needed for a file of its form (`state_dict` with the prefix `model.`, beside epoch and versions).
"""

import json
import os

import torch
from torchcrf import CRF

torch.manual_seed(11)
ALPHABET = "-ACDEFGHIKLMNPQRSTVWYX"
SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQ"


class Net(torch.nn.Module):
    def __init__(self, embed=5, hidden=4):
        super().__init__()
        self.embedding = torch.nn.Embedding(len(ALPHABET), embed, padding_idx=0)
        self.lstm = torch.nn.LSTM(embed, hidden, batch_first=True, bidirectional=True)
        self.proj = torch.nn.Sequential(
            torch.nn.Linear(2 * hidden, 2 * hidden), torch.nn.LayerNorm(2 * hidden), torch.nn.Dropout(0.3)
        )
        self.fc_q8 = torch.nn.Linear(2 * hidden, 8)
        self.fc_q3 = torch.nn.Linear(2 * hidden, 3)
        self.crf = CRF(8, batch_first=True)

    def forward(self, tokens):
        x = self.proj(self.lstm(self.embedding(tokens))[0])
        return self.fc_q8(x), self.fc_q3(x)


net = Net().eval()
with torch.no_grad():
    for parameter in net.crf.parameters():
        parameter.normal_(std=0.5)
    for parameter in net.fc_q8.parameters():
        parameter.mul_(3)
    q8, q3 = net(torch.tensor([[ALPHABET.index(letter) for letter in SEQUENCE]]))
    path = net.crf.decode(q8)[0]
here = os.path.dirname(os.path.abspath(__file__))
state = {f"model.{name}": tensor for name, tensor in net.state_dict().items()}
torch.save(
    {"epoch": 3, "global_step": 7, "pytorch-lightning_version": "2.5.0", "state_dict": state},
    os.path.join(here, "lightning.ckpt"),
)
with open(os.path.join(here, "lightning.json"), "w") as out:
    numbers = {"q8": q8[0].tolist(), "q3": q3[0].tolist()}
    json.dump({"sequence": SEQUENCE, "path": path, **numbers}, out)
    out.write("\n")
