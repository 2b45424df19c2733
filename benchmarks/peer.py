#!/usr/bin/env python3
"""A training step beside that of a peer's student, on one CPU thread.

The peer is s3prl's DistillerModel, on which DistilHuBERT and RobustDistiller are
built: two layers whose output predicts three layers of the teacher, which is computed
in every step; its convolutions are trained. Ours is mlkd, with its labels. Both have
wav2vec2-base's shape and random weights and get the same batches, a step of each in
turn. Loading is not counted. Needs s3prl (`pip install --no-deps s3prl`).

> python benchmarks/peer.py results/bench/peer.json
"""

import itertools
import pathlib
import statistics
import sys
import tempfile
import time

import torch
import training
import transformers
from machine import write_figures
from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel
from torch.nn import functional as F
from training import FIRST, FROZEN, LATER, TRAINED

import speechbrain as sb

UTTERANCES, STEPS = 80, 12
LEVELS = (4, 8, 12)
PEER = "peer, teacher in every step"


class Peer:
    """A DistilHuBERT student with its loss: L1 and the cosine's log-sigmoid."""

    def __init__(self, encoder_folder):
        self.teacher = transformers.AutoModel.from_pretrained(
            encoder_folder
        ).eval()
        shape = self.teacher.config
        options = {
            "encoder_layers": 2,
            "encoder_embed_dim": shape.hidden_size,
            "encoder_ffn_embed_dim": shape.intermediate_size,
            "encoder_attention_heads": shape.num_attention_heads,
            "final_dim": shape.hidden_size,
            "n_tasks": len(LEVELS),
            "pred_layer_id": list(LEVELS),
            "feature_grad_mult": 0.1,
        }
        layers = zip(shape.conv_dim, shape.conv_kernel, shape.conv_stride)
        options["extractor_conv_feature_layers"] = str(list(layers))
        self.model = DistillerModel(DistillerConfig(options)).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 2e-4)

    def step(self, batch):
        """One update."""
        (noisy, lengths), (clean, _) = batch.sig, batch.clean
        samples = torch.round(lengths * noisy.shape[1])
        mask = (torch.arange(noisy.shape[1]) < samples[:, None]).float()
        with torch.no_grad():
            found = self.teacher(clean, output_hidden_states=True).hidden_states
            wanted = torch.stack([found[level] for level in LEVELS], 1)
        predicted = self.model(noisy, mask)[2]
        cosine = F.cosine_similarity(predicted, wanted, dim=-1)
        loss = F.l1_loss(predicted, wanted) - F.logsigmoid(cosine).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def ours(name, root, changes):
    """A function that trains ours on a batch, and its loader."""
    brain, loader = training.make_brain(name, root, "base", "speech", **changes)
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.modules.train()

    def step(batch):
        brain.step += 1
        brain.fit_batch(batch).item()

    return step, loader


def compare(root, cnn):
    """Median seconds of a step, and of how many of ours one of the peer's takes."""
    changes = {
        "student_freeze_cnn": cnn == FROZEN,
        "output_folder": root / "out" / cnn.replace(" ", "_"),
    }
    steps, loader = {PEER: Peer(root / "base_encoder").step}, None
    for name in (FIRST, LATER):
        # The first fills the cache that the second reads.
        steps[name], loader = ours(name, root, changes)
    seconds = {name: [] for name in steps}
    for number, batch in enumerate(itertools.islice(loader, STEPS)):
        names = [FIRST, LATER]
        names.insert(2 * (number % 2), PEER)
        for name in names:
            started = time.perf_counter()
            steps[name](batch)
            seconds[name].append(time.perf_counter() - started)
    return [
        {
            "name": name if name == PEER else f"{name}, {cnn}",
            "median_seconds": round(statistics.median(own), 3),
            "ratio": round(
                statistics.median(p / o for p, o in zip(seconds[PEER], own)), 2
            ),
        }
        for name, own in seconds.items()
    ]


def main(path):
    """Measures, writes and prints."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        training.write_speech(root / "speech", UTTERANCES)
        training.write_noise(root / "noise")
        training.write_teacher(root / "base", transformers.Wav2Vec2Config())
        rows = [row for cnn in (FROZEN, TRAINED) for row in compare(root, cnn)]
    write_figures(path, {"steps": STEPS, "variants": rows})
    for row in rows:
        print("{name:32} {median_seconds:7} s {ratio:5} x".format(**row))


if __name__ == "__main__":
    main(sys.argv[1])
