"""Texts in a plan go into cards and manifests, so they must be ones that can be written."""

from __future__ import annotations

import pytest

from mediant.errors import PlanError
from mediant.planning.plan import Plan


@pytest.mark.parametrize("field", ["recipe", "model_fingerprint"])
def test_a_text_that_cannot_be_written_is_refused(field):
    plan = Plan("0" * 64, "default", 0, {})
    assert Plan.from_json(plan.to_json()) == plan
    spoilt = plan.to_json().replace(getattr(plan, field), "\\ud800")
    with pytest.raises(PlanError, match="cannot be printed"):
        Plan.from_json(spoilt)
