"""Reads a published dataset as others do: `pip install datasets mlcroissant; python read_dataset.py DATASET`."""

import json
import sys

import mlcroissant
from datasets import get_dataset_config_names, load_dataset

folder = sys.argv[1]
for config in get_dataset_config_names(folder):
    for split, rows in load_dataset(folder, config).items():
        streamed = next(iter(load_dataset(folder, config, split=split, streaming=True)))
        print(config, split, len(rows), sorted(streamed)[:3])
dataset = mlcroissant.Dataset(jsonld=f"{folder}/croissant.json")
print(dataset.metadata.issues.report() or "croissant: no issue")
for records in dataset.metadata.record_sets:
    first = next(iter(dataset.records(records.id)))
    print(records.id, len(first), "columns")
