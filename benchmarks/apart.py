"""A harder split of the groceries: what is tested looks unlike what was trained on.

A random split has near duplicates in train and in testB, such as photographs of one shelf. Here the
photographs of each kind are clustered by their features, and whole clusters go to valid and to testB.
"""

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from kddcup.pictures.dealing import draw_candidates
from kddcup.rank.logistic import scale
from kddcup.table.table import Table

CLUSTERS = 6
"""The clusters of a kind: one goes to valid and one to testB."""


def write_pairs_apart(groceries: Path, shared: Path, out: Path) -> None:
    """Write the pairs of the harder split.

    Args:
        groceries: folder of the tables of the photographs.
        shared: folder of the photographs' own pairs.csv and words.json.
        out: the new pairs.csv.
    """
    words = {
        int(product): set(own) for product, own in json.loads((shared / "words.json").read_text()).items()
    }
    split = deal_clusters(read_features(groceries), words)
    with (shared / "pairs.csv").open(newline="") as file:
        pairs = [(row["query"], int(row["product_id"]), row["split"]) for row in csv.DictReader(file)]
    rows = [(query, product, "train", 1) for query, product, was in pairs if was == split[product] == "train"]
    for name in ("valid", "testB"):
        queries = sorted({query for query, _, was in pairs if was == name})
        held_out = [product for product in sorted(words) if split[product] == name]
        matching = {
            (product, number): True
            for number, query in enumerate(queries)
            for product in held_out
            if words[product].issuperset(query.split())
        }
        titles = {product: " ".join(sorted(words[product])) for product in held_out}
        candidates = draw_candidates(matching, queries, titles)
        rows += [(queries[query], product, name, int(good)) for (product, query), good in candidates.items()]
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "product_id", "split", "relevance"])
        writer.writerows(rows)


def read_features(groceries: Path) -> dict[int, np.ndarray]:
    """The mean feature of each photograph, square-rooted and scaled."""
    means = {
        row.product_id: row.features.mean(0)
        for split in ("train", "valid", "testB")
        for row in Table(groceries / split / f"{split}.tsv").rows(f"read {split}")
    }
    return dict(zip(means, scale(np.stack(list(means.values()))), strict=True))


def deal_clusters(features: dict[int, np.ndarray], words: dict[int, set[str]]) -> dict[int, str]:
    """Deal each photograph to train, valid or testB: of each kind, a cluster to valid and one to testB.

    They are the two whose centres are farthest from the kind's.
    """
    from sklearn.cluster import KMeans

    kinds = defaultdict(list)
    for product in sorted(words):
        kinds[frozenset(words[product])].append(product)
    split = dict.fromkeys(words, "train")
    for products in kinds.values():
        own = np.stack([features[product] for product in products])
        clusters = KMeans(min(CLUSTERS, len(products)), n_init=4, random_state=0).fit(own)
        apart = np.linalg.norm(clusters.cluster_centers_ - own.mean(0), axis=1)
        for name, cluster in zip(("valid", "testB"), np.argsort(-apart)[:2], strict=False):
            split.update({products[i]: name for i in np.flatnonzero(clusters.labels_ == cluster)})
    return split
