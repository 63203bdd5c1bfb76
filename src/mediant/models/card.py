"""The model card that travels with a compressed model: what it is, where it is from, how to run it."""

from __future__ import annotations

import contextlib
import re
from functools import cache
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined, Template

from mediant.models import remote_code
from mediant.models.sidecar_files import CARD
from mediant.values import Model

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

TEMPLATE = """\
---
{% if base %}base_model: {{ base }}
base_model_relation: quantized
{% endif %}{% for line in terms %}{{ line }}
{% endfor %}library_name: mediant
pipeline_tag: {{ "text-generation" if causal else "feature-extraction" }}
tags: [mediant, quantized]
---
# {{ name }}, compressed with Mediant

Made from `{{ name }}` ({{ architecture }}, {{ "{:,}".format(weights) }} weights) with the recipe `{{ recipe }}`,
seed {{ seed }}; calibration text: {{ calibration }}.

```python
import mediant
from transformers import AutoTokenizer

model = mediant.load("path/to/this/folder"{{ trust }})
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder"{{ trust }})
```

After `import mediant`, `from_pretrained` of transformers loads this folder too. `mediant inspect` shows what became
of every tensor and what is known about its error; `mediant evaluate` measures the cost against the original.
"""


TERMS = ("license", "license_name", "license_link", "language")


def model_card(model: Model, recipe: str, seed: int, calibration: str) -> str:
    """Returns the README.md of a compressed model, with the metadata that model hubs read."""
    own = remote_code.references(model.config.get("auto_map"))
    return _template().render(
        name=model.name,
        terms=terms(model.path),
        base=model.name if HUB_ID.fullmatch(model.name) else "",
        architecture=model.architecture,
        weights=model.weights,
        causal=model.causal,
        recipe=recipe,
        seed=seed,
        calibration=calibration,
        trust=", trust_remote_code=True" if remote_code.trusted() and own else "",
    )


def terms(folder: Path) -> list[str]:
    """Returns the lines of the original's own card that say under which licence it is and which languages it knows.

    Both go with the weights, whoever hands them on.
    """
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        text = (folder / CARD).read_text(encoding="utf-8")
        if match := re.match(r"---\s*\n(.*?)\n---\s*\n", text, re.DOTALL):
            head = yaml.safe_load(match[1])
            known = {name: head[name] for name in TERMS if isinstance(head, dict) and name in head}
            return yaml.safe_dump(known, sort_keys=True, allow_unicode=True).splitlines() if known else []
    return []


@cache
def _template() -> Template:
    return Environment(undefined=StrictUndefined, autoescape=False).from_string(TEMPLATE)
