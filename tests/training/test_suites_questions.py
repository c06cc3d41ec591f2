"""Questions on paragraphs: how answers are judged, what a question is given, and files of them."""

import json
from pathlib import Path

import pytest
import torch

from tests.training.bench import SEGMENT, VECTORS, anchored_compressor, cell, compressor, options_of, write_jsonl
from training.bench.parts import Part, best_parts, mixed, parts_at
from training.bench.prefix import Ending, Prefix
from training.bench.questions import asked, f1, is_contained, normalised, read_paragraphs
from training.bench.reader import Reader
from training.bench.suites import qa

PARAGRAPHS = [
    {
        "context": f"The keeper of lighthouse {name} is {keeper}. It was built in {year}, and it has {steps} steps.",
        "questions": [
            {"question": f"Who is the keeper of lighthouse {name}?", "answer": keeper},
            {"question": f"How many steps has lighthouse {name}?", "answer": str(steps)},
        ],
    }
    for name, keeper, year, steps in (
        ("Alpha", "Ann Bell", 1801, 90),
        ("Beta", "Carl Dorn", 1822, 91),
        ("Gamma", "Eva Falk", 1843, 92),
        ("Delta", "Gus Hall", 1864, 93),
    )
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "questions.jsonl", PARAGRAPHS)


def test_answers_are_judged_by_hand() -> None:
    assert normalised("The  cat's, a Cat!") == "cats cat"
    assert f1("the white cat", "A white dog") == pytest.approx(0.5)  # one of two words each way
    assert f1("ninety lines in the book", "ninety lines") == pytest.approx(2 * 2 / (4 + 2))
    assert f1("cat cat", "cat") == pytest.approx(2 / 3)
    assert (f1("", "cat"), f1("the", "a"), f1("dog", "cat")) == (0.0, 1.0, 0.0)
    assert is_contained("There were 90 steps.", "90")
    assert not is_contained("There were 190 steps.", "90")


@pytest.mark.parametrize("line", ["no JSON", '{"context": "x"}', "[]", '{"context": "x", "questions": [1]}'])
def test_a_bad_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(PARAGRAPHS[0]) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"bad.jsonl, line 2"):
        read_paragraphs(path)


def test_too_few_paragraphs_and_no_file_are_refused(questions: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 4 paragraphs; 5 are the least"):
        read_paragraphs(questions, least=5)
    with pytest.raises(ValueError, match="there is no file of questions"):
        read_paragraphs(tmp_path / "absent.jsonl")


def test_a_chat_template_is_used_where_there_is_one() -> None:
    reader = Reader.of(compressor())
    assert reader.decode(torch.tensor(asked(reader, "Who?", "Ships."))) == "\n\nShips.\n\nWho?\nAnswer:"
    model = compressor()
    assert model.tokenizer is not None
    template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<reply>"
    model.tokenizer = model.tokenizer.__class__(tokenizer_object=model.tokenizer.backend_tokenizer)
    model.tokenizer.chat_template = template
    assert Reader.of(model).decode(torch.tensor(asked(Reader.of(model), "Who?"))) == "<user>Who?<reply>"


# --- parts


def test_a_text_at_a_ratio_has_so_many_vectors_or_there_is_none() -> None:
    ids = torch.tensor(Reader.of(compressor()).encode(PARAGRAPHS[0]["context"] * 3))[: 4 * SEGMENT]
    native = SEGMENT // VECTORS
    for reader in (Reader.of(anchored_compressor()), Reader.of(compressor())):
        for ratio in (native, 2 * native):
            parts = parts_at(reader, ids, ratio)
            assert parts is not None
            assert sum(len(part.summary) for part in parts) == len(ids) // ratio
            assert torch.equal(torch.cat([part.ids for part in parts]), ids)
    more = parts_at(Reader.of(anchored_compressor()), ids, native / 2)  # more than it makes by itself
    assert more is not None
    assert [len(part.summary) for part in more] == [2 * VECTORS] * 4
    assert parts_at(Reader.of(compressor()), ids[:8], 4 * native) is None
    assert parts_at(Reader.of(compressor(accumulate_summary=False)), ids, native) is None  # it keeps the newest alone


@torch.no_grad()
def test_text_is_put_back_in_its_place() -> None:
    reader = Reader.of(anchored_compressor())
    ids = torch.tensor(reader.encode("".join(each["context"] for each in PARAGRAPHS)))
    parts = parts_at(reader, ids, 4)
    assert parts is not None
    found = mixed(reader, parts, (1,))
    before, own = len(parts[0].summary), len(parts[1].ids)
    assert torch.equal(found[before : before + own], reader.model.embed(parts[1].ids))
    assert len(found) == own + sum(len(part.summary) for i, part in enumerate(parts) if i != 1)


def test_the_best_parts_hold_the_words_of_the_question() -> None:
    reader = Reader.of(anchored_compressor())
    texts = [each["context"] for each in PARAGRAPHS]
    parts = [
        Part(torch.tensor(reader.encode(text)), parts_at(reader, torch.arange(1, 17), 4)[0].summary) for text in texts
    ]  # type: ignore[index]
    (chosen, other) = best_parts(reader, parts, ["How many steps has Gamma?", "Who keeps Beta?"], 1)
    assert (chosen, other) == ((2,), (1,))


# --- the suite


@pytest.mark.parametrize("kind", ["anchored", "summary tokens"])
def test_the_suite_s_table_follows_from_its_sums(kind: str, questions: Path, tmp_path: Path) -> None:
    reader = Reader.of(anchored_compressor(8, 64) if kind == "anchored" else compressor())
    options = options_of("qa", tmp_path, samples=6, questions=questions)
    qa.run(reader, options).write(options)
    found = json.loads((options.out / "qa.json").read_text())
    forms = found["measured"]["forms"]
    loss = {
        name: sum(form["nll"].values()) / sum(form["tokens"].values()) for name, form in forms.items() if form["nll"]
    }
    answers, chat = found["tables"]
    for name in ("8x", "8x, short segments, 2 in full"):
        assert cell(answers, "loss of answers", context=name)["value"] == pytest.approx(loss[name], abs=1e-3)
        retained = cell(answers, "retained", context=name)
        expected = (loss["none"] - loss[name]) / (loss["none"] - loss["in full"])
        assert retained is None or retained["value"] == pytest.approx(expected, abs=1e-2)
    assert len({sum(form["tokens"].values()) for form in forms.values() if form["tokens"]}) == 1  # the same tokens
    assert len(forms["none"]["f1"]["0"]) == 6
    assert len(chat["rows"]) == 4
    assert len(found["measured"]["chat"]["questions"]) == 6
    assert all(len(each) == 6 for each in found["measured"]["chat"]["right"].values())
    assert (options.out / "qa.png").stat().st_size > 0


@torch.no_grad()
def test_answers_are_scored_after_the_question_and_the_context(questions: Path) -> None:
    reader = Reader.of(anchored_compressor())
    (group,) = qa.groups_of(reader, read_paragraphs(questions), 1, seed=0)
    given = {form.name: form for form, _ in qa.forms(reader, group)}
    ids = [*asked(reader, "Who?"), *reader.encode(" Ann Bell")]
    scored = len(reader.encode(" Ann Bell"))
    full = reader.losses(torch.cat([group.ids, torch.tensor(ids)])[None], scored)
    (cached,) = Prefix.read(reader, group.ids).losses([Ending(ids, scored)]) or []
    assert full is not None
    torch.testing.assert_close(cached, full[0], rtol=0, atol=1e-4)
    vectors = given["8x"].soft_prompt
    assert vectors is not None
    after = reader.losses(torch.tensor([ids]), scored, vectors[None])
    (cached,) = Prefix.read(reader, (), vectors).losses([Ending(ids, scored)]) or []
    assert after is not None
    torch.testing.assert_close(cached, after[0], rtol=0, atol=1e-4)
