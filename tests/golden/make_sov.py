"""SOV'99 by sets of positions, straight from the definition: python tests/golden/make_sov.py > tests/golden/sov.json

Every line of the result is truth, prediction, SOV over all three states; `?` is a residue of unknown truth, which parts
segments. Segments are sets of residue numbers here, so that nothing is shared with the program but the definition.
"""

import json
import random

random.seed(7)


def segments(states, truth):
    found, current = [], set()
    for at, state in enumerate(states + "!"):
        inside = at < len(truth) and truth[at] != "?"
        if current and not (inside and states[max(current)] == state and at - 1 in current):
            found.append((states[max(current)], current))
            current = set()
        if inside:
            current = current | {at}
    return found


def sov(truth, predicted):
    total, weight = 0.0, 0
    for state, one in segments(truth, truth):
        partners = [other for s, other in segments(predicted, truth) if s == state and one & other]
        if not partners:
            weight += len(one)
        for other in partners:
            minov = len(one & other)
            union = one | other
            maxov = max(union) - min(union) + 1
            delta = min(maxov - minov, minov, len(one) // 2, len(other) // 2)
            total += (minov + delta) / maxov * len(one)
            weight += len(one)
    return total / weight


def chain():
    text = ""
    while len(text) < random.randint(20, 60):
        text += random.choice("HEC") * random.randint(1, 9)
    return text


rows = []
for _ in range(48):
    truth = chain()
    predicted = list(truth)
    for _ in range(random.randint(0, 12)):
        at = random.randrange(len(truth))
        for near in range(at, min(len(truth), at + random.randint(1, 5))):
            predicted[near] = random.choice("HEC")
    predicted = "".join(predicted)
    if random.random() < 0.4:
        at = random.randrange(len(truth) - 3)
        truth = truth[:at] + "??" + truth[at + 2 :]
    rows.append([truth, predicted, sov(truth, predicted)])
print(json.dumps(rows, indent=0))
