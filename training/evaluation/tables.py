"""An evaluation as Markdown, for a model card: perplexities, what summaries are worth, AutoCompressor against RMT."""

from training.evaluation.intervals import Estimate, change_of_loss, share_of_gap
from training.evaluation.markdown import ABSENT, interval, markdown_table
from training.evaluation.results import Evaluation
from training.evaluation.scores import (
    AUTOCOMPRESSOR,
    EXTENDED,
    NO_CONTEXT,
    RMT,
    TOGETHER,
    Condition,
    Domain,
    DomainScores,
    ModelScores,
    perplexity,
)

FOOTNOTE = "†"


def as_markdown(evaluation: Evaluation) -> str:
    """All tables, and what was scored; a line says which models were recorded earlier."""
    parts = [
        _introduction(evaluation),
        *(_perplexities(evaluation, domain) for domain in evaluation.domains),
        *_worth_of_summaries(evaluation),
        *_against_rmt(evaluation),
    ]
    return "\n\n".join(parts)


def _introduction(evaluation: Evaluation) -> str:
    length = evaluation.segment_length
    sentences = [
        f"Perplexity of the last segment ({length} tokens, its first left out), by the number of segments before it: "
        f"compressed into summary vectors, or in full. All numbers of a domain are of the same tokens.",
        f"Documents (windows): {', '.join(_size(evaluation, domain) for domain in evaluation.domains)}.",
    ]
    recorded = [label for label in evaluation.models if label in evaluation.recorded]
    if recorded:
        sentences.append(f"Recorded earlier, not measured now: {', '.join(recorded)}.")
    return "\n\n".join(sentences)


def _size(evaluation: Evaluation, domain: Domain) -> str:
    scores = next(iter(evaluation.models.values()))[domain.name][NO_CONTEXT]
    num_windows = sum(score.tokens for score in scores) // (evaluation.segment_length - 1)
    return f"{domain.name} {len(scores)} ({num_windows})"


def _title(evaluation: Evaluation, domain: Domain) -> str:
    if not any(other.is_in_domain for other in evaluation.domains):  # there is no training data to go by
        return domain.name
    return f"{domain.name} ({'in domain' if domain.is_in_domain else 'out of domain'})"


# --- tables


def _perplexities(evaluation: Evaluation, domain: Domain) -> str:
    rows = []
    for label, model in evaluation.models.items():
        scores = model[domain.name]
        forms = [True, False] if any(condition.is_compressed for condition in scores) else [False]
        for is_compressed in forms:
            conditions = [NO_CONTEXT, *(Condition(count, is_compressed) for count in evaluation.contexts)]
            cells = [f"{perplexity(scores[one]):.2f}" if one in scores else ABSENT for one in conditions]
            rows.append([label, "compressed" if is_compressed else "in full", *cells])
    header = ["model", "context", "0", *map(str, evaluation.contexts)]
    return f"**{_title(evaluation, domain)}**\n\n{markdown_table(header, rows, num_text_columns=2)}"


def _worth_of_summaries(evaluation: Evaluation) -> list[str]:
    """Of the first model that has any: their change of the loss, and the share of what full context brings."""
    label = next((label for label in evaluation.models if _has_summaries(evaluation, label)), None)
    if label is None:
        return []
    rows = []
    for domain, scores in _with_all(evaluation, label).items():
        for count in evaluation.contexts:
            summaries = scores.get(Condition(count, is_compressed=True))
            if summaries is not None:
                change = _signed(change_of_loss(summaries, scores[NO_CONTEXT]))
                rows.append([domain, str(count), change, _share(evaluation, domain, scores, count)])
    header = ["domain", "segments", "change of loss, nats", "share of the gap closed"]
    notes = (
        f"**{label}: what its summaries are worth.** Change of loss against no context; share of the gap closed: "
        f"(none - summaries) / (none - in full), {ABSENT} where the gap is not clearly above 0. "
        f"In brackets 95% bootstrap intervals over documents."
    )
    table = markdown_table(header, rows, num_text_columns=1)
    if any(FOOTNOTE in cell for row in rows for cell in row):
        table += f'\n\n{FOOTNOTE} in full: of the model "{EXTENDED}", as the context does not fit {label}\'s positions.'
    return [f"{notes}\n\n{table}"]


def _has_summaries(evaluation: Evaluation, label: str) -> bool:
    return any(condition.is_compressed for scores in evaluation.models[label].values() for condition in scores)


def _with_all(evaluation: Evaluation, label: str) -> ModelScores:
    """A model's scores by domain, and those of all domains together where there are several."""
    by_domain = {domain.name: evaluation.models[label][domain.name] for domain in evaluation.domains}
    if len(by_domain) == 1:
        return by_domain
    shared = set.intersection(*(set(scores) for scores in by_domain.values()))
    return by_domain | {TOGETHER: {one: [s for scores in by_domain.values() for s in scores[one]] for one in shared}}


def _share(evaluation: Evaluation, domain: str, scores: DomainScores, count: int) -> str:
    in_full, sign = Condition(count, is_compressed=False), ""
    full = scores.get(in_full)
    if full is None and EXTENDED in evaluation.models:
        full, sign = _with_all(evaluation, EXTENDED)[domain].get(in_full), FOOTNOTE
    if full is None:
        return ABSENT
    share = share_of_gap(scores[NO_CONTEXT], scores[Condition(count, is_compressed=True)], full)
    return ABSENT if share is None else interval(share, "{:.0%}") + sign


def _against_rmt(evaluation: Evaluation) -> list[str]:
    if not {AUTOCOMPRESSOR, RMT} <= evaluation.models.keys():
        return []
    conditions = [NO_CONTEXT, *(Condition(count, is_compressed=True) for count in evaluation.contexts)]
    rows = []
    our_scores, their_scores = (_with_all(evaluation, label) for label in (AUTOCOMPRESSOR, RMT))
    for domain, ours in our_scores.items():
        theirs = their_scores[domain]
        cells = [
            _signed(change_of_loss(ours[one], theirs[one])) if one in ours and one in theirs else ABSENT
            for one in conditions
        ]
        rows.append([domain, *cells])
    table = markdown_table(["domain", "0", *map(str, evaluation.contexts)], rows, num_text_columns=1)
    notes = (
        f"**{AUTOCOMPRESSOR} minus {RMT}.** Difference of loss in nats (below 0: the {AUTOCOMPRESSOR} is better), by "
        f"the number of compressed segments. In brackets 95% bootstrap intervals over documents."
    )
    return [f"{notes}\n\n{table}"]


def _signed(estimate: Estimate) -> str:
    return interval(estimate, "{:+.3f}")
