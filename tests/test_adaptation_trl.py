"""The callback on trl's SFTTrainer: raw text, packed or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_vocab_extend import Stage, VocabExtensionCallback

from .adapting import NEW, V, copy_of, extended, moved_rows, without_dropout

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")


def texts() -> datasets.Dataset:
    """Lines in which every word occurs."""
    lines = [" ".join(f"w{3 + (start + 5 * step) % (V - 3)}" for step in range(9)) for start in range(96)]
    return datasets.Dataset.from_dict({"text": lines})


@pytest.mark.filterwarnings("ignore::FutureWarning")  # trl checkpoints activations under the option's older name
@pytest.mark.parametrize("packing", [True, False])
def test_stages_on_the_trainer_of_trl(packing: bool, tmp_path: Path) -> None:
    model = without_dropout("llama", tied=False)
    extension = extended(model)
    callback = VocabExtensionCallback(extension, stages=[Stage("new_rows", steps=2), Stage("all", steps=1)])
    before = copy_of(model)
    seen: list[dict[str, list[int]]] = []

    class Watch(trl.SFTTrainer):
        """Looks at the model before each step."""

        def training_step(self, *args: object, **kwargs: object) -> object:
            """Note what has moved, then go on."""
            seen.append(moved_rows(model, before))
            return super().training_step(*args, **kwargs)

    settings = {"max_steps": 3, "learning_rate": 1e-2, "weight_decay": 0.1, "per_device_train_batch_size": 4}
    args = trl.SFTConfig(
        tmp_path,
        packing=packing,
        max_length=32,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        **settings,
    )
    Watch(model, args, train_dataset=texts(), processing_class=extension.tokenizer, callbacks=[callback]).train()
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    assert seen[0] == {}
    assert seen[2] == dict.fromkeys(tables, list(NEW))
    assert set(moved_rows(model, before)) == set(before)
    assert [entry["begin"] for entry in callback.history] == [0, 2]
