"""What a reader of the app looks at, which its panels share."""

import traitlets

from thyroid_utils.studies.case_review import CaseSet, Review


class Shown(traitlets.HasTraits):
    """Changes as the reader moves; panels `observe` what they follow.

    Attributes:
        chosen: the case set; None where the review has none.
        networks: names of those that are shown side by side, of `chosen.networks`.
        cases: ids of the cases that the filters leave, in their order.
        case: the id of the one that is looked at; "" where there is none.
    """

    chosen = traitlets.Instance(CaseSet, allow_none=True)
    networks = traitlets.List(traitlets.Unicode())
    cases = traitlets.List(traitlets.Unicode())
    case = traitlets.Unicode("")

    def __init__(self, review: Review) -> None:
        super().__init__()
        self.review = review
        self.chosen = next(iter(review.sets), None)

    def step(self, by: int) -> None:
        """Go on by so many cases, at most to the first or last."""
        if self.cases:
            at = self.cases.index(self.case) if self.case in self.cases else -by
            self.case = self.cases[min(max(at + by, 0), len(self.cases) - 1)]
