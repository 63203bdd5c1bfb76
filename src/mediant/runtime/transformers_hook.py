"""Teaches transformers to load compressed checkpoints: `AutoModelForCausalLM.from_pretrained(folder)`.

transformers finds no plug-ins by itself: somebody has to change it once it is imported. Importing it takes seconds, so
`install` waits for that and changes one thing then: `PreTrainedModel.from_pretrained`, the one place through which
every class loads, gives folders with a `mediant.json` to `mediant.runtime.loading`. Without Mediant transformers
refuses such a folder, as it has no `model.safetensors`.

The attention patterns are registered then too, and a network whose configuration has some comes with them turned on.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

MODULE = "transformers.modeling_utils"

# Keyword arguments of from_pretrained that only say where and how to find files.
FILE_ARGUMENTS = (
    "cache_dir", "force_download", "local_files_only", "token", "revision", "proxies", "subfolder",
    "use_safetensors", "weights_only", "variant", "disable_mmap",
)  # fmt: skip

# Keyword arguments that from_pretrained takes itself, although a configuration may have an attribute of that name.
NETWORK_ARGUMENTS = (
    "dtype",
    "attn_implementation",
    "experts_implementation",
    "quantization_config",
    "generation_config",
)


def install() -> None:
    """Makes `from_pretrained` know our checkpoints: now if transformers is imported, else as soon as it is."""
    if MODULE in sys.modules:
        wrap(sys.modules[MODULE])
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


class _WhenImported(importlib.abc.MetaPathFinder):
    """Finds only `MODULE`, and once: as it would be found without this, to be wrapped when it has been executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_wrap(module: ModuleType) -> None:
                execute(module)
                wrap(module)

            spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec


def wrap(module: ModuleType) -> None:
    """Replaces `PreTrainedModel.from_pretrained` and registers the patterns; a second call changes nothing."""
    from mediant.checkpoint.manifest import MANIFEST_FILE
    from mediant.runtime import attention_patterns

    attention_patterns.register(module)
    original = module.PreTrainedModel.from_pretrained.__func__
    if hasattr(original, "loads_mediant"):
        return

    @functools.wraps(original)
    def from_pretrained(
        cls: type[PreTrainedModel],
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *arguments: Any,
        **settings: Any,
    ) -> Any:
        name = pretrained_model_name_or_path
        folder = None if name is None else Path(name) / (settings.get("subfolder") or "")
        if folder is not None and not folder.exists():
            folder = _downloaded(str(name), settings) or folder
        if folder is not None and (folder / MANIFEST_FILE).is_file():
            return _with_adapter(folder, settings, lambda: _load(cls, folder, settings, arguments))
        result = original(cls, name, *arguments, **settings)
        # The classes named Auto… put what they are asked for into the configuration.
        asked = getattr(settings.get("config"), "_attn_implementation_internal", None)
        if not (settings.get("attn_implementation") or asked):
            attention_patterns.turn_on(result[0] if isinstance(result, tuple) else result)
        return result

    from_pretrained.loads_mediant = True  # type: ignore[attr-defined]
    module.PreTrainedModel.from_pretrained = classmethod(from_pretrained)


def _downloaded(name: str, settings: dict[str, Any]) -> Path | None:
    """Returns the folder of a compressed model of that id on the hub; None for any other model.

    Its configuration says which it is, which is read for every model anyway.
    """
    from huggingface_hub import snapshot_download
    from transformers import PretrainedConfig

    where = {n: settings[n] for n in ("cache_dir", "local_files_only", "token", "revision") if n in settings}
    try:
        config = settings.get("config")
        if not isinstance(config, PretrainedConfig):
            config = PretrainedConfig.get_config_dict(name, **where)[0]
        said = (
            config.get("quantization_config") if isinstance(config, dict) else vars(config).get("quantization_config")
        )
        method = said.get("quant_method") if isinstance(said, dict) else getattr(said, "quant_method", None)
        return Path(snapshot_download(name, **where)) if method == "mediant" else None
    except (OSError, ValueError):
        return None


def _with_adapter(folder: Path, settings: dict[str, Any], load: Callable[[], Any]) -> Any:
    """Loads a network, and over it the adapter that the Auto classes found, or that lies beside the checkpoint.

    The Auto classes put an adapter's path into `adapter_kwargs` and ask for the model that it was made for.
    """
    from mediant.models.adapter_files import CONFIG

    given = dict(settings.pop("adapter_kwargs", None) or {})
    beside = folder if (folder / CONFIG).is_file() else None
    adapter = given.pop("_adapter_model_path", None) or beside
    loaded = load()
    if adapter is not None:
        network = loaded[0] if isinstance(loaded, tuple) else loaded
        network.load_adapter(str(adapter), adapter_name=settings.pop("adapter_name", None), adapter_kwargs=given)
    return loaded


def _load(cls: type[PreTrainedModel], folder: Path, settings: dict[str, Any], arguments: Sequence[Any]) -> Any:
    """Loads the checkpoint in `folder` as `from_pretrained` promises."""
    from mediant.checkpoint.reader import open_checkpoint
    from mediant.runtime.loading import build

    settings = {name: value for name, value in settings.items() if name not in FILE_ARGUMENTS}
    if "torch_dtype" in settings:
        settings.setdefault("dtype", settings.pop("torch_dtype"))
    config = _config(cls, folder, settings)
    return build(cls, open_checkpoint(folder), config, settings, arguments)


def _config(cls: type[PreTrainedModel], folder: Path, settings: dict[str, Any]) -> PretrainedConfig:
    """Returns the configuration among the settings, or that of the folder with what the settings change in it taken
    out.
    """
    from transformers import PretrainedConfig

    config = settings.pop("config", None)
    if isinstance(config, PretrainedConfig):
        return config
    read: PretrainedConfig = cls.config_class.from_pretrained(config or folder)
    changes = [name for name in settings if hasattr(read, name) and name not in NETWORK_ARGUMENTS]
    read.update({name: settings.pop(name) for name in changes})
    return read
