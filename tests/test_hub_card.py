"""The card: only what the data says, valid for the Hub, with a snippet that runs and the user's own text kept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_vocab_extend import render_card
from hf_vocab_extend.errors import InvalidOptionError
from hf_vocab_extend.hub.card import card_of_folder, has_own_prose, split_front_matter, stated_license
from hf_vocab_extend.methods import get_method_class, list_methods
from hf_vocab_extend.report import RETENTION, UNTOUCHED

from .factories import tokenizer
from .stub_extension import make_bert, make_extension, make_report
from .tiny_models import MODELS

EVALUATION = {"task": "Sentence Retrieval", "dataset": "TICO-19 | test", "metric": "R@1", "value": 0.5, "before": 0.25}
HEADINGS = (
    "How to use",
    "Vocabulary",
    "Tokenizer on the corpus",
    "Method",
    "Training",
    "Evaluation",
    "Limits",
    "Citation",
)


def headings(card: str) -> list[str]:
    return re.findall(r"^## (.+)$", card, re.MULTILINE)


def front(card: str) -> dict:
    return split_front_matter(card)[0]


def test_front_matter_is_what_the_hub_expects() -> None:
    card = render_card(
        make_report(evaluations=(EVALUATION,)), model_type="bert", architecture="BertForMaskedLM", model_name="me-bert"
    )
    data = front(card)
    assert data["base_model"] == "org/base-model"
    assert data["base_model_relation"] == "finetune"
    assert data["language"] == ["sw"]
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "fill-mask"
    assert data["tags"] == ["hf_vocab_extend", "vocabulary-extension", "subword"]
    assert "license" not in data
    assert "model_name" not in data
    [entry] = data["model-index"]
    [result] = entry["results"]
    assert entry["name"] == "me-bert"
    assert result["task"] == {"type": "sentence-retrieval", "name": "Sentence Retrieval"}
    assert result["dataset"] == {"name": "TICO-19 | test", "type": "tico-19-test"}
    assert result["metrics"] == [{"type": "r@1", "value": 0.5, "name": "R@1"}]


def test_the_hub_client_reads_it() -> None:
    card = ModelCard(render_card(make_report(evaluations=(EVALUATION,))))
    assert card.data.eval_results[0].metric_value == 0.5
    assert card.data.base_model == "org/base-model"


def test_sections_only_where_there_is_data() -> None:
    bare = make_report(
        coverage=None, fertility_before=None, fertility_after=None, tables=(), counts_by_kind={}, method="unheard-of"
    )
    assert headings(render_card(bare)) == ["Vocabulary", "Method", "Limits", "Versions"]
    full = make_report(evaluations=(EVALUATION,), training={"steps": 100}, method="focus")
    found = headings(render_card(full, load_name="out", model_type="bert", architecture="BertModel"))
    assert found == [*HEADINGS[:-1], "Versions", "Citation"]


@pytest.mark.parametrize("method", list_methods())
def test_paper_and_citation_of_each_method(method: str) -> None:
    card = render_card(make_report(method=method))
    owner = get_method_class(method)
    assert owner.summary in card
    for text in (owner.paper_url, owner.citation):
        assert text is None or text.strip() in card
    assert ("```bibtex" in card) == (owner.citation is not None)


def test_tables_carry_the_numbers() -> None:
    card = render_card(make_report(evaluations=(EVALUATION,), training={"learning rate": 1e-4}))
    for row in (
        "| tokens | 480 | 500 |",
        "| kept as it was | 480 | 75.0 % |",
        "| tokens per word | 3.250 | 1.500 |",
        "| lines that decode to themselves | 50.00% | 50.00% |",
        "| `bert.embeddings.word_embeddings.weight` | input | 500 x 16 |",
        "| Sentence Retrieval | TICO-19 \\| test | R@1 | 0.25 | 0.5 |",
        "| learning rate | 0.0001 |",
    ):
        assert row in card.splitlines(), row


def test_tables_are_whole() -> None:
    """Every row of a table has as many cells as its head, and no blank line cuts it."""
    card = render_card(make_report(evaluations=(EVALUATION,), training={"a": "b|c\nd <x>"}, method="focus"))
    for block in re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
        assert re.fullmatch(r"[|:-]+", block.splitlines()[1]), block
    assert "| a | b\\|c d &lt;x> |" in card
    assert "\n\n\n" not in card


def test_the_head_is_spoken_of_only_if_there_is_one() -> None:
    head = ({"name": "lm_head.weight", "role": "head", "shape": (500, 16)},)
    assert "The head shares the input table." in render_card(make_report())
    assert "The head has a table of its own." in render_card(make_report(tied=False, tables=head))
    assert "The head" not in render_card(make_report(tied=False))


LIMITS = {
    "not trained": ({}, {"training": {"steps": 1}}),
    "random": ({}, {"counts_by_kind": {"same": 480, "method": 20}, "notes": ()}),
    "language of the new tokens was not stated": ({"languages": ()}, {}),
    "No evaluation": ({}, {"evaluations": (EVALUATION,)}),
    "its vocabulary was replaced": ({"mode": "replace"}, {}),
}


@pytest.mark.parametrize("text", LIMITS)
def test_limits_follow_from_the_data(text: str) -> None:
    with_it, without_it = LIMITS[text]

    def limits(changes: dict) -> str:
        return render_card(make_report(**changes)).split("## Limits")[1].split("## Versions")[0]

    assert text in limits(with_it)
    assert text not in limits(without_it)


def test_a_note_that_repeats_a_limit_stands_once() -> None:
    assert render_card(make_report()).count("1 rows are random") == 1


PLACES = ["/home/x/models/my-model", "/tmp/a b", "C:\\models\\mine"]


@pytest.mark.parametrize("place", PLACES)
def test_no_paths_and_no_tokens(place: str) -> None:
    secret = "hf_" + "a" * 34
    card = render_card(
        make_report(
            base_model=place,
            target_tokenizer=place,
            method_config={"vectors": place},
            notes=(f"see {place}", secret),
            training={"output_dir": place, "token": secret},
        )
    )
    assert place not in card
    assert secret not in card


def test_base_model_only_if_it_can_be_one() -> None:
    assert "base_model" not in front(render_card(make_report(base_model="/tmp/my model!")))
    assert "base_model" not in front(render_card(make_report(base_model=None)))
    assert front(render_card(make_report(base_model="/x/y/my-model")))["base_model"] == "my-model"
    card = render_card(make_report(base_model=None), base_model="a/b")
    assert front(card)["base_model"] == "a/b"


def test_a_corrected_base_model_is_not_undone_by_a_folder_name() -> None:
    report = make_report(base_model="/x/model")
    card = render_card(report).replace("base_model: model", "base_model: org/right")
    again = render_card(report, existing=card)
    assert front(again)["base_model"] == "org/right"
    assert "https://huggingface.co/org/right" in again
    assert front(render_card(make_report(), existing=card))["base_model"] == "org/base-model"


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="no key 'licence'.*license"):
        render_card(make_report(), licence="mit")


def test_arguments_reach_the_front_matter() -> None:
    data = front(
        render_card(
            make_report(),
            language="sw",
            license="mit",
            tags=["sentence-transformers"],
            library_name="sentence-transformers",
            pipeline_tag="sentence-similarity",
            datasets=["a/b"],
        )
    )
    assert data["license"] == "mit"
    assert data["tags"][-1] == "sentence-transformers"
    assert (data["library_name"], data["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert (data["language"], data["datasets"]) == (["sw"], ["a/b"])


def test_rendering_again_changes_nothing() -> None:
    report = make_report(evaluations=(EVALUATION,))
    first = render_card(report, load_name="out", model_name="m")
    assert render_card(report, load_name="out", model_name="m", existing=first) == first


OWN = """---
license: cc-by-4.0
language: [en, sw]
tags:
- mine
pipeline_tag: sentence-similarity
base_model: other/base
author: me
model-index:
- name: theirs
  results: []
---

# Mine

Words before.
"""


def test_own_keys_and_text_survive() -> None:
    card = render_card(make_report(evaluations=(EVALUATION,)), model_name="m", existing=OWN, model_type="bert")
    data = front(card)
    assert data["license"] == "cc-by-4.0"
    assert data["author"] == "me"
    assert data["language"] == ["en", "sw"]
    assert data["tags"] == ["mine", "hf_vocab_extend", "vocabulary-extension", "subword"]
    assert data["pipeline_tag"] == "sentence-similarity"
    assert data["base_model"] == "org/base-model"
    assert [entry["name"] for entry in data["model-index"]] == ["theirs", "m"]
    assert "# Mine\n\nWords before.\n\n<!-- hf_vocab_extend: begin" in card
    assert "# m\n" not in card


def test_what_is_given_replaces_what_was_there() -> None:
    own = OWN.replace("cc-by-4.0", "other\nlicense_name: x\nlicense_link: y")
    data = front(render_card(make_report(), existing=own, license="mit", pipeline_tag="fill-mask", library_name="a"))
    assert (data["license"], data["pipeline_tag"], data["library_name"]) == ("mit", "fill-mask", "a")
    assert "license_name" not in data
    assert "license_link" not in data


def test_the_block_is_replaced_where_it_stands() -> None:
    card = render_card(make_report(), existing=OWN) + "\nWords after.\n"
    again = render_card(make_report(languages=("ha",), method="mean"), existing=card)
    before, after = again.index("Words before."), again.index("Words after.")
    assert before < again.index("hf_vocab_extend: begin") < again.index("hf_vocab_extend: end") < after
    assert again.count("hf_vocab_extend: begin") == 1
    assert "vocabulary for ha" in again
    assert "vocabulary for sw" not in again


@pytest.mark.parametrize(
    "own", ["Only words.\n", "# T\r\n\r\nWords.\r\n", "", "---\n---\nx\n", "\ufeff---\na: b\n---\nx\n"]
)
def test_odd_own_cards(own: str) -> None:
    card = render_card(make_report(), existing=own)
    assert front(card)["library_name"] == "transformers"
    for word in re.findall(r"\w{4,}", split_front_matter(own)[1]):
        assert word in card
    assert ("\r\n" in card) == ("\r\n" in own)
    assert render_card(make_report(), existing=card) == card


@pytest.mark.parametrize("own", ["---\na: [\n---\nx", "---\n- a\n---\nx"])
def test_broken_front_matter_is_an_error(own: str) -> None:
    with pytest.raises(InvalidOptionError, match="front matter"):
        render_card(make_report(), existing=own)


def test_has_own_prose() -> None:
    card = render_card(make_report())
    assert not has_own_prose(card)
    assert not has_own_prose(card.replace("# base-model-sw", "# Another title"))
    assert has_own_prose(card + "\nWords.\n")
    assert has_own_prose("Words.")


def test_stated_license(tmp_path: Path) -> None:
    assert stated_license(tmp_path / "README.md") == {}
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n")
    assert stated_license(tmp_path / "README.md") == {"license": "mit"}
    (tmp_path / "README.md").write_text("The licence is MIT.")
    assert stated_license(tmp_path / "README.md") == {}


def test_a_folder_without_a_report(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"vocab_extension\.json"):
        card_of_folder(tmp_path)
    (tmp_path / "vocab_extension.json").write_text(make_report().to_json())
    with pytest.raises(InvalidOptionError, match=r"config\.json"):
        card_of_folder(tmp_path)


def test_the_template_is_ascii_and_travels_with_the_package() -> None:
    from importlib.resources import files

    assert files("hf_vocab_extend.hub").joinpath("card_template.md").read_bytes().isascii()


def test_front_matter_of_the_users_is_read_as_the_hub_reads_it() -> None:
    own = "---\nlanguage: no\ntitle: one --- two ---\ntags: 2024\nlicense: mit\n---\n\nMy words.\n"
    card = render_card(make_report(), existing=own)
    data = front(card)
    assert data["language"][0] == "no"
    assert (data["title"], data["license"], data["tags"][0]) == ("one --- two ---", "mit", 2024)
    assert front("---\ninference: false\n---\n") == {"inference": False}
    assert "My words." in card


@pytest.mark.parametrize("rows", [0, 7])
def test_a_distillation_that_kept_the_start_is_not_told_as_a_refinement(rows: int) -> None:
    card = render_card(make_report(training=None, distillations=({"method": "parallel", "rows": rows},)))
    assert ("refined by distillation" in card) is ("The new rows alone were refined" in card) is bool(rows)
    assert ("its new rows aside" in card) is bool(rows)
    assert ("every row was left as it was" in card) is (not rows)


def test_before_is_told_of_the_measures_of_training_alone() -> None:
    history = [{"step": step, "bits_per_byte_sw": value} for step, value in ((0, 3.0), (9, 2.0))]
    training = {"history": history, "texts": {"sw": {"source": False, "documents": 4, "bytes": 80}}}
    measured = {"task": "language modelling", "dataset": "sw", "metric": "bits per byte", "value": 2.0}
    for before, told in ((3.0, True), (4.0, False)):
        card = render_card(make_report(training=training, evaluations=(measured | {"before": before},)))
        assert ('"before" is the model with its new vocabulary' in card) is told


def test_front_matter_is_valid_yaml_with_odd_names() -> None:
    card = render_card(
        make_report(base_model=None, evaluations=(EVALUATION | {"dataset": "a: b # c"},)), model_name="x: y"
    )
    data = yaml.safe_load(card.split("---\n")[1])
    assert data["model-index"][0]["results"][0]["dataset"]["name"] == "a: b # c"
    assert data["model-index"][0]["name"] == "x: y"


@pytest.fixture(scope="module")
def snippets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The snippet of each kind of model, beside the folders that they load."""
    root, found = tmp_path_factory.mktemp("snippets"), {}
    for number, (name, (make, _)) in enumerate(MODELS.items()):
        make_extension(*make()).save_pretrained(root / f"out{number}", verify=False)
        card = (root / f"out{number}" / "README.md").read_text("utf-8")
        found[name] = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    return root, found


def test_snippets_run_as_they_stand(snippets: tuple[Path, dict[str, str]]) -> None:
    """All in one process: importing takes longer than running."""
    root, found = snippets
    code = "\n".join(found.values())
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) >= len(found)
    assert "torch.Size([1, " in done.stdout


@pytest.mark.parametrize(
    ("name", "loader"),
    [("bert", "MaskedLM"), ("llama", "CausalLM"), ("t5", "Seq2SeqLM"), ("marian", "Seq2SeqLM")],
)
def test_snippets_name_the_right_class(name: str, loader: str, snippets: tuple[Path, dict[str, str]]) -> None:
    assert f"AutoModelFor{loader}.from_pretrained" in snippets[1][name]


def test_no_snippet_for_a_class_that_nobody_can_import() -> None:
    card = render_card(make_report(), load_name="out", model_type="mine", architecture="MyModel")
    assert "```python" not in card
    card = render_card(
        make_report(), load_name="out", model_type="clip_text_model", architecture="CLIPTextModelWithProjection"
    )
    assert 'CLIPTextModelWithProjection.from_pretrained("out")' in card


def test_card_of_a_real_save_is_stable(tmp_path: Path) -> None:
    make_extension(make_bert(), tokenizer("bert-uncased")).save_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert card_of_folder(tmp_path / "out", load_name="out", model_name="out", existing=card) == card


RETAINED = {"task": RETENTION, "dataset": "en", "metric": "bits per byte", "value": 3.539, "before": 3.063}
IN_TRAINING = {
    "texts": {"source": {"source": True, "documents": 2, "bytes": 90}},
    "history": [{"bits_per_byte_source": 3.6, "step": 0}, {"bits_per_byte_source": 3.564, "step": 9}],
}


def test_limits_compare_the_source_language_with_the_untouched_model_first() -> None:
    trained = RETAINED | {"dataset": "source", "before": 3.6, "value": 3.564}
    found = (trained, RETAINED | {"dataset": "old", "before_model": "other"}, RETAINED | {"before_model": UNTOUCHED})
    card = render_card(make_report(evaluations=found, training=IN_TRAINING, notes=()))
    limits = [line for line in card.split("## Limits")[1].splitlines() if line.startswith("- On source")]
    assert limits == [
        "- On source-language text ('en') bits per byte went from 3.063 (the untouched base model) to 3.539: 15.5 % "
        "worse.",
        "- On source-language text ('old') bits per byte went from 3.063 (the model `other`) to 3.539: 15.5 % worse.",
        "- On source-language text ('source') bits per byte went from 3.600 to 3.564 in training: 1.0 % better.",
    ]
    for text in (
        'For en, "before" is the untouched base model.\n',
        'For old, "before" is the model `other`.\n',
        "\nBits per byte are bits of the whole text over its UTF-8 bytes, lower is better, comparable across "
        'tokenizers. Measured in training, where "before" is the model with its new vocabulary when training began: '
        "source",
    ):
        assert text in card


def test_retention_is_a_limit_without_training_too() -> None:
    card = render_card(make_report(evaluations=(RETAINED,)))
    assert "- On source-language text ('en') bits per byte went from 3.063 to 3.539: 15.5 % worse." in card
    assert 'For en, "before" is a model that was not recorded.' in card
    measured = {"texts": {"sw": {"documents": 2, "bytes": 90}}}
    assert "was not measured" in render_card(make_report(training=measured))
    assert "was not measured" not in render_card(make_report(training=measured, evaluations=(RETAINED,)))


def test_one_name_for_retention() -> None:
    from hf_vocab_extend.adaptation import checkpoints

    assert checkpoints.RETENTION == RETENTION
