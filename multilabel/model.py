"""The image encoder learns what an image shows: by the words of its queries as tags, and as a caption."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kddcup.config import ModelConfig
from kddcup.encoder import ImageEncoder
from kddcup.loader import Batch
from kddcup.regions import RegionBatch
from kddcup.text import TokenBatch, WordVectors
from kddcup.words import Packing, copy_frozen

NEGATIVES = 1000
"""Words, of those that are not in the query, whose logits count in the tagging loss."""


class MultiLabelClassifier(nn.Module):
    """An image encoder under a tagger and a captioner; the word vectors are frozen.

    Args:
        config: widths.
        start: id of the word that a caption starts from.
        end: id of the word that ends a caption.
    """

    def __init__(self, config: ModelConfig, start: int, end: int) -> None:
        super().__init__()
        self.start, self.end = start, end
        self.item = ImageEncoder(config)
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.embed.requires_grad_(False)
        self.rnn = nn.GRU(config.width, config.width, batch_first=True)
        self.caption = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.PReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.width, config.width),
        )

    def set_words(self, words: WordVectors) -> None:
        """Take the word vectors of stage 1."""
        copy_frozen(self.embed.weight, words.vectors)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of B queries, without unknown words, with an image each."""
        heads = self.item(batch.images)
        labels = heads[:, 1:].flatten(0, 1)  # [B·H, E]
        spoken, words = self._spoken(heads[:, 0], batch.queries)
        # One pass over the vocabulary for tags and captions.
        products = torch.cat([labels, spoken]) @ self.embed.weight.T
        of_labels, of_captions = products.split([len(labels), len(spoken)])
        logits = of_labels.view(len(heads), -1, products.shape[1]).max(1).values  # [B, V]
        return {
            "tagging": tagging_loss(logits.float(), batch.queries.ids),
            "captioning": F.cross_entropy(of_captions.float(), words, reduction="sum") / len(batch.queries),
        }

    def label_logits(self, heads: Tensor) -> Tensor:
        """[B, V]: for each word the best product of a label head with its vector."""
        products = heads[:, 1:].flatten(0, 1) @ self.embed.weight.T  # [B·H, V]
        return products.view(len(heads), -1, products.shape[1]).max(1).values

    def _spoken(self, caption_head: Tensor, queries: TokenBatch) -> tuple[Tensor, Tensor]:
        """What the captioner says at each of N steps, [N, E], and the word that it should say, [N].

        Args:
            caption_head: [B, E] initial states.
            queries: B captions of at least one word; each is read as start, words, end. Pads take no part.
        """
        ids, lengths = queries.ids, queries.lengths + 1
        inputs = F.pad(ids, (1, 0), value=self.start)  # [B, T+1]
        last = (torch.arange(inputs.shape[1]) == queries.lengths[:, None]).to(ids.device, non_blocking=True)
        targets = F.pad(ids, (0, 1)).masked_fill(last, self.end)
        packing = Packing.of(lengths, inputs.shape[1], ids.device)
        words = self.embed(inputs.flatten()[packing.places])
        hidden, _ = self.rnn(packing.pack(words), caption_head[None].contiguous())
        return self.caption(hidden.data), targets.flatten()[packing.places]

    def encode_images(self, images: RegionBatch) -> Tensor:
        """[B, 1+H, E]."""
        return self.item(images)

    def score_candidates(self, queries: TokenBatch, owner: Tensor, heads: Tensor) -> Tensor:
        """[C] sum of log σ(logit) over the query's words, for ``heads`` [C, 1+H, E] and ``owner`` [C]."""
        vectors = self.embed(queries.ids)[owner]  # [C, T, E]
        logits = (vectors @ heads[:, 1:].transpose(1, 2)).amax(2)  # [C, T]
        return (F.logsigmoid(logits) * queries.mask[owner]).sum(1)

    @torch.no_grad()
    def read_captions(
        self, caption_head: Tensor, width: int = 5, steps: int = 15
    ) -> list[tuple[float, list[int]]]:
        """Beam search from the start word.

        Args:
            caption_head: [E] of one image.
            width: captions kept at each step.
            steps: words at most, the end included.

        Returns:
            up to ``width`` of (log probability, word ids without start and end), the most probable first.
        """
        device = caption_head.device
        state = caption_head.expand(1, 1, -1).contiguous()  # [1, beams, E]
        score = torch.zeros(1, device=device)
        words = torch.full((1, 1), self.start, device=device)  # [beams, length]
        ended: list[tuple[float, list[int]]] = []
        for step in range(steps):
            output, state = self.rnn(self.embed(words[:, -1:]), state)
            logits = self.caption(output[:, 0]) @ self.embed.weight.T  # [beams, V]
            logits[:, [0, self.start]] = -torch.inf
            total = score[:, None] + logits.log_softmax(1)
            best, flat = total.flatten().topk(min(width, total.numel()))
            beam, word = flat // total.shape[1], flat % total.shape[1]
            words = torch.cat([words[beam], word[:, None]], 1)
            stops = (word == self.end) if step < steps - 1 else torch.ones_like(word, dtype=torch.bool)
            for value, caption in zip(best[stops].tolist(), words[stops].tolist(), strict=True):
                ended.append((value, [one for one in caption[1:] if one != self.end]))
            score, words, state = best[~stops], words[~stops], state[:, beam[~stops]].contiguous()
            # A log probability only falls: none that goes on can overtake the best that ended.
            if len(words) == 0 or (len(ended) >= width and sorted(ended)[-width][0] >= float(score.max())):
                break
        return sorted(ended, key=lambda one: -one[0])[:width]


def tagging_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """−log σ(logit) of the query's distinct words and −log σ(−logit) of the hardest other words.

    Args:
        logits: [B, V] of every word of the vocabulary.
        ids: [B, T] words of the queries, padded with 0.

    Returns:
        the sum over the words of a query and over the min(1000, available) largest logits of words that are
        not in it, pad aside; mean over the batch.
    """
    positive = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, True)
    positive[:, 0] = False
    others = logits.masked_fill(positive, -torch.inf)[:, 1:]
    hardest = others.topk(min(NEGATIVES, others.shape[1]), sorted=False).values
    repeated = (ids[:, :, None] == ids[:, None]).tril(-1).any(2)  # [B, T]
    found = F.softplus(-logits.gather(1, ids)).masked_fill(repeated | (ids == 0), 0)
    # softplus(−∞) is 0: where a query leaves fewer than 1,000 other words, only those count.
    return (found.sum() + F.softplus(hardest).sum()) / len(logits)
