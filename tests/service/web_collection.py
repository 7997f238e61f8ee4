"""A small collection for tests of the web page: texts over a few words, a tiny random encoder, a trained dictionary."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparsight.retrieval.engine import Database
from sparsight.types import BM25Field, DenseField

WORDS = ["cat", "dog", "red", "blue", "old", "house", "mat", "bird", "sun", "sea", "tree", "road"]
COLLECTION = "words"
HOSTILE = "<img src=x onerror=alert(1)>"  # a title that must be shown as it is

_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def make_database(folder: Path) -> Database:
    """A database with two collections: ``words``, with features, and ``plain``, with BM25 only."""
    _make_encoder(folder / "encoder")
    database = Database(folder / "data")
    rng = np.random.default_rng(5)
    words = database.create_collection(COLLECTION, [BM25Field(), DenseField("dense", encoder=str(folder / "encoder"))])
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(150)]
    words.upsert([{"id": f"d{n}", "title": f"Text {n}", "text": text, "metadata": {"year": 2000 + n % 20}}
                  for n, text in enumerate(texts)])
    words.upsert([{"id": "hostile", "title": HOSTILE, "text": "cats <b>and</b> zebras & cat"}])
    words.train_sae("sae", source="dense", n_latents=48, k=4, epochs=40)
    database.create_collection("plain", [BM25Field()]).upsert([{"id": "1", "text": "a plain cat"}])
    return database


def _make_encoder(folder: Path) -> None:
    """A random BERT of 16 dimensions with a word-piece tokenizer over ``WORDS``."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=len(_PIECES), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=32, initializer_range=0.5, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        BertModel(config).eval().save_pretrained(folder)
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(_PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]",
                                                             special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(_PIECES[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
