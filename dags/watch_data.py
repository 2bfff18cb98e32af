"""One DAG `watch__<corpus>` for each corpus: looks at its place, and updates its asset when a slice arrives.

The asset `corpus/<corpus>` starts every recipe whose `schedule.on` names it. A look that finds nothing ends
green, its task skipped, and starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from airflow.sdk import DAG, Asset, CronTriggerTimetable
from runtimes.process import Commands, ProcessOperator, answer
from shared.notify import Notice

from tasks.recipe.corpora import Corpus, read_corpora
from tasks.recipe.failures import Failure
from tasks.recipe.run_names import run_name


class LookOperator(ProcessOperator):
    """Looks at a corpus; the asset's event carries the newest slice's date and digest."""

    def __init__(self, *, corpus: str, asset: Asset, **given: Any) -> None:
        super().__init__(outlets=[asset], **given)
        self.corpus = corpus
        self.asset = asset

    def execute(self, context: Any) -> None:
        """Run the command; where it found something, say what."""
        super().execute(context)
        slices = json.loads(answer("corpus", "show", self.corpus, "--json"))["slices"]
        newest = [each for each in slices if each["current"]][-1]
        context["outlet_events"][self.asset].extra = {
            key: newest[key] for key in ("date", "digest", "rows", "found_by")
        }


def corpus_commands(corpus: Corpus, action: str) -> Commands:
    """Look, or compare all that the look of this run gave; a retry of a run gives the same answer."""

    def commands(context: Any) -> Sequence[Sequence[str]]:
        run = run_name(f"watch-{corpus.corpus}", context["run_id"])
        return [["corpus", action, corpus.corpus, "--run", run]]

    return commands


def tell_drift(context: Any) -> None:
    """Tell that the data drifted only where that is why the task failed, not where MLflow was away."""
    failure = getattr(context.get("exception"), "failure", None)
    Notice("drift" if failure is Failure.DATA_INVALID else "failure")(context)


def build(corpus: Corpus) -> DAG:
    """The DAG of a corpus."""
    with DAG(
        dag_id=f"watch__{corpus.corpus}",
        dag_display_name=f"watch {corpus.corpus}",
        description=f"New data of {corpus.corpus}: {corpus.description}".strip(": ")[:200],
        doc_md=f"{corpus.description}\n\nLooks at `{corpus.uri}`; updates the asset `{corpus.asset}`.",
        schedule=CronTriggerTimetable(corpus.cron, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        tags=["data"],
        default_args={"owner": corpus.owner or "perennial", "on_failure_callback": Notice("failure")},
    ) as dag:
        found = LookOperator(
            task_id="look",
            corpus=corpus.corpus,
            asset=Asset(name=corpus.asset),
            commands=corpus_commands(corpus, "look"),
            doc_md="Cuts what arrived into slices by date. Skipped where nothing did; then nothing starts.",
        )
        if corpus.model is not None:
            found >> ProcessOperator(
                task_id="drift",
                commands=corpus_commands(corpus, "drift"),
                on_failure_callback=tell_drift,
                doc_md="Compares every slice of the look with what the champion learned from. It fails above "
                "the corpus's limits, and stops no training: gates judge what that makes of it.",
            )
    return dag


corpora, problems = read_corpora()
for each in corpora.values():
    globals()[f"watch__{each.corpus}"] = build(each)
