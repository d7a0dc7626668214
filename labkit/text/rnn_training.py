"""Training of RNN classifiers in torch, seeded and stopped early; the weights then serve Keras and torch alike.

python -m labkit.text.rnn_training < {"corpus": …, "training": …, "path": …}
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.text.corpus import Corpus
from labkit.text.rnn_torch import RnnModule
from labkit.text.rnn_trained import TrainedRnn, Training
from labkit.text.vocabulary import PADDING, UNKNOWN, Vocabulary

_VALIDATION_SHARE = 0.1
_MAX_GRADIENT = 1.0
_WEIGHT_DECAY = 0.01
_EMBEDDING_SCALE = 0.1  # of what torch draws: words begin alike
_POOL = 4  # batches that are drawn together and sorted; of more, too few are unlike each other
_STEPS = {"simple": torch.rnn_tanh_cell, "gru": torch.gru_cell}


def train(corpus: Corpus, training: Training) -> TrainedRnn:
    """Train until validation has not got better for `patience` epochs; the best epoch stays."""
    vocabulary = Vocabulary.of(corpus.texts, size=training.vocabulary)
    classes = {topic: number for number, topic in enumerate(corpus.topics)}
    ids = torch.from_numpy(vocabulary.encode(corpus.texts, length=training.length)).long()
    num_words = (ids != PADDING).sum(1)
    labels = torch.tensor([classes[label] for label in corpus.labels])
    generator = torch.Generator().manual_seed(training.seed)
    order = torch.randperm(len(ids), generator=generator)
    num_validation = max(1, round(_VALIDATION_SHARE * len(ids)))
    validation, rest = order[:num_validation], order[num_validation:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        module = _fresh(training, len(classes))
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=training.learning_rate, weight_decay=_WEIGHT_DECAY, fused=True
        )
        best, least, num_worse = copy.deepcopy(module), 1.0, 0
        for _ in range(training.max_epochs):
            for rows in _batches(rest, num_words, training.batch, generator):
                _learn(module, optimizer, _forgetful(ids[rows], training.word_dropout, generator), labels[rows])
            errors = _errors(module, ids[validation], labels[validation])
            if errors < least:
                best, least, num_worse = copy.deepcopy(module), errors, 0
            else:
                num_worse += 1
            if num_worse == training.patience:
                break
    return TrainedRnn(best.weights(), vocabulary, corpus.topics, training.length, training.key(corpus))


def _fresh(training: Training, classes: int) -> RnnModule:
    """An untrained module: orthogonal recurrent weights, no bias but an LSTM's towards keeping its state."""
    module = RnnModule(
        training.cell,
        vocabulary=training.vocabulary,
        embedding=training.embedding,
        units=training.units,
        classes=classes,
        dropout=training.dropout,
    )
    with torch.no_grad():
        module.embedding.weight.mul_(_EMBEDDING_SCALE)
        for name, parameter in module.recurrent.named_parameters():
            if "bias" in name:
                parameter.zero_()
            elif "weight_hh" in name:
                for gate in torch.split(parameter, training.units):
                    torch.nn.init.orthogonal_(gate)
        if training.cell == "lstm":  # Jozefowicz, Zaremba and Sutskever 2015
            module.get_parameter("recurrent.bias_ih_l0")[training.units : 2 * training.units] = 1
    return module


def _batches(rows: Tensor, num_words: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """The rows in random batches of texts of like length: a batch is walked as far as its longest text goes."""
    pools = torch.split(rows[torch.randperm(len(rows), generator=generator)], _POOL * size)
    batches = [batch for pool in pools for batch in torch.split(pool[num_words[pool].argsort()], size)]
    return [batches[number] for number in torch.randperm(len(batches), generator=generator)]


def _learn(module: RnnModule, optimizer: torch.optim.Optimizer, ids: Tensor, labels: Tensor) -> None:
    module.train()
    optimizer.zero_grad()
    torch.autograd.backward(F.cross_entropy(walked(module, ids), labels))
    torch.nn.utils.clip_grad_norm_(module.parameters(), _MAX_GRADIENT)
    optimizer.step()


def walked(module: RnnModule, ids: Tensor) -> Tensor:
    """`module(ids)`, [B, T] → logits [B, C], walked step by step: for gated cells half the time of a training step.

    Going back through a packed sequence, torch fills an array of all steps with zeros in each of them.
    """
    is_word = ids != PADDING
    columns = is_word.any(0)
    inputs = module.dropout(module.embedding(ids[:, columns]))
    weights = list(module.recurrent.parameters())
    state = inputs.new_zeros(len(ids), module.recurrent.hidden_size)
    memory = state
    for step, has_word in zip(inputs.unbind(1), is_word[:, columns, None].unbind(1), strict=True):
        if module.cell == "lstm":
            after, kept = torch.lstm_cell(step, (state, memory), *weights)
            memory = torch.where(has_word, kept, memory)
        else:
            after = _STEPS[module.cell](step, state, *weights)
        state = torch.where(has_word, after, state)
    logits: Tensor = module.dense(module.dropout(state))
    return logits


def _forgetful(ids: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The ids with this share of the words unknown: so the unknown word is learnt, and none is relied on alone."""
    is_lost = (torch.rand(ids.shape, generator=generator) < share) & (ids != PADDING)
    return ids.masked_fill(is_lost, UNKNOWN)


@torch.no_grad()
def _errors(module: RnnModule, ids: Tensor, labels: Tensor) -> float:
    """Share of wrong answers: an RNN becomes too sure of itself, and its loss worse, long before its answers do."""
    module.eval()
    return float((module(ids).argmax(1) != labels).float().mean())


def main(order: dict[str, Any]) -> None:
    """Train what was ordered and save it."""
    torch.set_num_threads(1)  # sums in another order make another RNN, and two threads are no faster
    corpus = Corpus(**{name: tuple(column) for name, column in order["corpus"].items()})
    train(corpus, Training(**order["training"])).save(Path(order["path"]))


if __name__ == "__main__":
    main(json.load(sys.stdin))
