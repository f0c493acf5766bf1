"""Train, valid and testB of a shop that has no such splits, and the candidates of their queries."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import xxhash
from tqdm import tqdm

from kddcup.io.errors import UserError
from kddcup.text.segmentation import content_words

Pairs = dict[tuple[int, int], bool]
"""Whether a product and a query, each by its place, belong together."""
TENTHS = ("train",) * 8 + ("valid", "testB")
"""The split of each tenth of the pictures."""
CANDIDATES = 30
"""The number of candidates of a query of valid or test, as most of the competition's have."""
MOST_RELEVANT = 10
"""The most relevant ones of these: a list without others would say nothing of a ranking."""


def deal_products(pairs: Pairs, pictures: Mapping[int, Sequence[Path]], source: Path) -> dict[str, Pairs]:
    """Deal pairs to train, valid and testB, 80/10/10, by a hash of what the products' pictures hold.

    Products that share a picture, by its bytes, go together, so that no picture of valid or testB is in
    train. A product stays in its split when others are added.

    Args:
        pairs: of all products.
        pictures: the files of each product.
        source: the table that the pairs are from.

    Raises:
        UserError: there are too few pictures for all three; or one cannot be read.
    """
    hashes = {
        product: [_hash_file(path) for path in paths]
        for product, paths in tqdm(pictures.items(), desc="deal", disable=None)
    }
    lowest = _lowest_of_group(hashes.values())
    splits: dict[str, Pairs] = {name: {} for name in TENTHS}
    for pair, relevant in pairs.items():
        splits[TENTHS[lowest[hashes[pair[0]][0]] % len(TENTHS)]][pair] = relevant
    empty = [name for name, dealt in splits.items() if not any(dealt.values())]
    if empty:
        raise UserError(
            f"{source}: {len(pictures)} products are too few to split by their pictures, {empty[0]} gets "
            "none: add products, or a column split"
        )
    return splits


def _hash_file(path: Path) -> int:
    return xxhash.xxh3_64_intdigest(path.read_bytes())


def _lowest_of_group(groups: Iterable[Sequence[int]]) -> dict[int, int]:
    """For each number, the lowest of those that it is grouped with, directly or through others."""
    parents: dict[int, int] = {}

    def find(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    for group in groups:
        for number in group:
            parents.setdefault(number, number)
        roots = [find(number) for number in group]
        for root in roots:
            parents[root] = min(roots)
    return {number: find(number) for number in parents}


def draw_candidates(pairs: Pairs, queries: Sequence[str], titles: Mapping[int, str]) -> Pairs:
    """Candidates for each query: the relevant ones, and others up to 30 in all, in an order drawn by chance.

    Of the others a third shares a word with the query, if there are so many. They are drawn from the
    products of ``pairs``; those of which all words of the query are said, and which may just not have been
    listed under it, are left alone. Of the relevant ones at most ten are taken. What a query gets depends on
    its text and the products alone.

    Args:
        pairs: of one split; pairs that are known not to belong together are the first others.
        queries: the text of each.
        titles: of the products.
    """
    products = sorted({product for product, _ in pairs})
    said: dict[int, set[str]] = {product: set(content_words(titles[product])) for product in products}
    listed: dict[int, dict[bool, list[int]]] = {}
    words = {}
    for (product, query), relevant in pairs.items():
        if query not in listed:
            listed[query] = {True: [], False: []}
            words[query] = set(content_words(queries[query]))
        listed[query][relevant].append(product)
        if relevant:
            said[product] |= words[query]
    saying: dict[str, set[int]] = {}
    for product, own in said.items():
        for word in own:
            saying.setdefault(word, set()).add(product)

    drawn: Pairs = {}
    for query, known in listed.items():
        if not known[True]:
            continue
        rng = np.random.default_rng(xxhash.xxh3_64_intdigest(queries[query].encode()))
        good = rng.permutation(known[True])[:MOST_RELEVANT].tolist()
        others = rng.permutation(known[False])[: CANDIDATES - len(good)].tolist()
        sayings = [saying.get(word, set()) for word in words[query]]
        barred = {*known[True], *known[False], *(set.intersection(*sayings) if sayings else ())}
        near = rng.permutation(sorted(set().union(*sayings) - barred)).tolist()
        barred.update(near)
        room = CANDIDATES - len(good) - len(others)
        third = -(-room // 3)
        far = (product for product in rng.permutation(products).tolist() if product not in barred)
        # Where the products that share no word do not suffice, more of those that do.
        others += [*near[:third], *islice(far, room - third), *near[third:]][:room]
        for product in rng.permutation(good + others).tolist():
            drawn[product, query] = product in good
    return drawn
