"""The image encoder learns what an image shows: by the words of its queries as tags, and as a caption."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kddcup.config import ModelConfig
from kddcup.data.batch import Batch, TokenBatch
from kddcup.nn.captioner import Captioner
from kddcup.nn.encoder import ImageEncoder
from kddcup.nn.ranker import WordRanker
from kddcup.nn.words import copy_array
from kddcup.text.vocabulary import Vocabulary, WordVectors


class Logits(NamedTuple):
    """``tags`` [B, V] of every word; ``captions`` [N, V] of the next word, and which it is, ``words`` [N]."""

    tags: Tensor
    captions: Tensor
    words: Tensor


class MultiLabelClassifier(WordRanker):
    """An image encoder under a tagger and a captioner; the word vectors are frozen.

    Its plain twin is :class:`benchmarks.reference.MultiLabelClassifier`.

    Args:
        config: widths, and the words that begin and end a caption.
    """

    log_sigmoid = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.start, self.end = config.start, config.end
        self.item = ImageEncoder(config)
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.embed.requires_grad_(False)
        captioner = Captioner(config)
        # No child by itself: the published checkpoints have its layers by these names.
        object.__setattr__(self, "captioner", captioner)
        self.rnn, self.caption = captioner.rnn, captioner.caption

    def set_words(self, words: WordVectors) -> None:
        """Take the word vectors of stage 1."""
        copy_array(self.embed.weight, words.vectors)

    def forward(self, batch: Batch) -> Logits:
        """Tag B images, and caption each by its query, which has no unknown words."""
        heads = self.item(batch.images)  # [B, 1+H, E]
        said, words, _ = self.captioner.predict_words(self.embed.weight, heads[:, 0], batch.queries)
        return Logits(tags=self.tag(heads), captions=said @ self.embed.weight.T, words=words)

    def tag(self, heads: Tensor) -> Tensor:
        """[B, V]: for each word the best product of its vector with a label head of ``heads`` [B, 1+H, E]."""
        products = heads[:, 1:].flatten(0, 1) @ self.embed.weight.T  # [B·H, V]
        return products.view(len(heads), -1, products.shape[1]).max(1).values

    def read_query(self, vocabulary: Vocabulary, text: str) -> list[int]:
        """The token ids of a query without the unknown."""
        return [token for token in vocabulary.encode(text) if token != vocabulary.unknown]

    def embed_words(self, ids: Tensor) -> Tensor:
        """Look up the vectors of words [W]: [W, E]."""
        return self.embed(ids)

    def score_candidates(self, queries: TokenBatch, owner: Tensor, images: Tensor) -> Tensor:
        """Score C candidates, of heads ``images`` [C, 1+H, E], by the sum of log σ(logit) over the words."""
        vectors = self.embed(queries.ids)[owner]  # [C, T, E]
        logits = (vectors @ images[:, 1:].transpose(1, 2)).amax(2)  # [C, T]
        return (F.logsigmoid(logits) * queries.mask[owner]).sum(1)

    @torch.no_grad()
    def generate_captions(
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
                ended.append((value, [token for token in caption[1:] if token != self.end]))
            score, words, state = best[~stops], words[~stops], state[:, beam[~stops]].contiguous()
            # A log probability only falls: none that goes on can overtake the best that ended.
            if len(words) == 0 or (len(ended) >= width and sorted(ended)[-width][0] >= float(score.max())):
                break
        return sorted(ended, key=lambda caption: -caption[0])[:width]
