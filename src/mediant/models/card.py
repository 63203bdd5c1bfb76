"""The model card that travels with a compressed model: what it is, where it is from, how to run it."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, StrictUndefined, Template

from mediant.values import Model

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

TEMPLATE = """\
---
{% if base %}base_model: {{ base }}
base_model_relation: quantized
{% endif %}library_name: mediant
pipeline_tag: {{ "text-generation" if causal else "feature-extraction" }}
tags: [mediant, quantized]
---
# {{ name }}, compressed with Mediant

Made from `{{ name }}` ({{ architecture }}, {{ "{:,}".format(weights) }} weights) with the recipe `{{ recipe }}`,
seed {{ seed }}; calibration text: {{ calibration }}.

```python
import mediant
from transformers import AutoTokenizer

model = mediant.load("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

After `import mediant`, `from_pretrained` of transformers loads this folder too. `mediant inspect` shows what became
of every tensor and what is known about its error; `mediant evaluate` measures the cost against the original.
"""


def model_card(model: Model, recipe: str, seed: int, calibration: str) -> str:
    """The README.md of a compressed model, with the metadata that model hubs read."""
    return _template().render(
        name=model.name,
        base=model.name if HUB_ID.fullmatch(model.name) else "",
        architecture=model.architecture,
        weights=model.weights,
        causal=model.causal,
        recipe=recipe,
        seed=seed,
        calibration=calibration,
    )


@cache
def _template() -> Template:
    return Environment(undefined=StrictUndefined, autoescape=False).from_string(TEMPLATE)
