"""The suite `qa`: what is still known of forget rows, beside rows to keep and rows that nothing was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rapidun.data import Rows, assert_disjoint
from rapidun.evaluation import assert_disjoint_prompts
from rapidun.evaluation.qa import LOOK_ALIKES, RETAINED, qa_values
from rapidun.evaluation.rouge import HINT, rouge_installed
from rapidun.pipeline.inputs import RunModel, first_rows, read_rows
from rapidun.pipeline.suites.answers import AnswerSuite
from rapidun.pipeline.suites.registry import register_suite


@register_suite("qa")
class Qa(AnswerSuite):
    """Forget, retain and held-out rows of any user; without a retained model held-out rows stand for it."""

    titles: ClassVar = {"forget": "forget", "retain": "retain", "held_out": "held-out"}

    values = staticmethod(qa_values)

    def read(self) -> dict[str, Rows]:
        """The three files.

        Raises:
            InputError: If a file or row is bad, two groups share rows, or more held-out rows are asked for than there
                are.
        """
        data = self.config.data
        paths = {"forget": data.forget, "retain": data.retain, "held_out": data.evaluation}
        found = {
            name: read_rows(path, self.titles[name], data, self.reporter)
            for name, path in paths.items()
            if path is not None
        }
        assert_disjoint(found["forget"], found["retain"])
        assert_disjoint_prompts(list(found["held_out"]), list(found["forget"]))
        return found | {"held_out": first_rows(found["held_out"], self.config.evaluation.prompts)}

    def rows(self, run_model: RunModel) -> Mapping[str, Sequence[Rows]]:
        """As they are; says which numbers they and this machine cannot give."""
        found = super().rows(run_model)
        if not rouge_installed():
            self.reporter.note(f"warning: ROUGE is left out, and utility is without it: {HINT}")
        compared = ("forget",) if self.config.retained is not None else ("forget", "held_out")
        lacking = [self.titles[name] for name in compared if self.groups[name].wrong is None]
        if lacking:
            self.reporter.note(
                f"no row of {' and '.join(lacking)} has wrong answers (response_wrong): forget quality is left out"
            )
        if self.config.retained is None:
            self.reporter.note(f"yardstick: {LOOK_ALIKES}: held-out rows stand for what a retained model would say")
        return found

    def yardstick(self) -> str:
        """A retained model, or look-alikes."""
        return LOOK_ALIKES if self.config.retained is None else RETAINED
