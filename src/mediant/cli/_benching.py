"""The measurements of `mediant bench`, one after another, each told as it comes and kept at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mediant.runtime import speed

if TYPE_CHECKING:
    from mediant.progress import Progress


@dataclass
class Session:
    """Measurements of one model, and perhaps one of llama.cpp in turn. `figures` gets what is found.

    Args:
        runners: ours, and llama.cpp's if there is one.
        counts: of threads.
        prompt: tokens that are read.
        tokens: that are written.
        rounds: whose median counts.
        progress: is told what is measured, and each row.
        figures: what the command writes as JSON.
    """

    runners: Sequence[Any]
    counts: Sequence[int]
    prompt: int
    tokens: int
    rounds: int
    progress: Progress
    figures: dict[str, Any]
    found: list[speed.Speeds] = field(init=False)

    def __post_init__(self) -> None:
        self.found = [speed.Speeds() for _ in self.runners]

    def rates(self) -> None:
        """Measures tokens a second; keeps at an interruption those of the rounds before it."""
        planned = speed.steps(len(self.runners), self.counts, self.rounds)
        self.progress.say(
            f"Writing {self.tokens} and reading {self.prompt} tokens, {self.rounds} rounds and one to warm up, "
            f"with {' and then '.join(map(str, self.counts))} threads."
        )
        telling = _Telling(self, planned)
        shown = iter(self.progress.track(planned, telling.now))
        try:
            next(shown, None)
            speed.measure(
                self.runners, self.counts, self.prompt, self.tokens, self.rounds,
                lambda step: telling.begins(step) and next(shown, None), self.found,
            )  # fmt: skip
            telling.row(self.counts[-1])
            next(shown, None)
        finally:
            self._keep_rates()

    def bandwidths(self, size: int) -> None:
        """Measures the bytes that threads draw from memory, and the share of it that decoding reaches."""
        self.progress.say("Measuring the memory's bandwidth.")
        found = {str(count): speed.bandwidth(count) for count in self.counts}
        decode = self.figures["decode_tokens_per_second"]
        self.figures["bandwidth_bytes_per_second"] = found
        self.figures["bandwidth_fraction"] = {count: decode[count] * size / found[count] for count in found}

    def memory(self, folder: str, against: str | None) -> None:
        """Measures peak memory and seconds to load, each in a process of its own."""
        self.progress.say("Measuring memory and loading in a process of its own.")
        options = str(self.prompt), str(self.tokens)
        bits = str(self.figures["activation_bits"])
        self.figures |= speed.alone("mediant.runtime.speed", folder, *options, bits)
        if against is not None:
            self.figures["against"] |= {"model": against} | speed.alone("mediant.runtime.llama_cpp", against, *options)

    def precisions(self, ours: Any) -> None:
        """Measures the KL divergence of each precision of a nested model from the full one, and its speed."""
        from mediant.runtime.precision import divergence, own_text

        decoder, threads = ours.decoder, self.counts[-1]
        rows = self.figures["precision"] = []
        windows = own_text(decoder)
        for bits in decoder.precisions:
            kl = divergence(decoder, bits, windows)
            decoder.set_precision(bits)
            found = speed.measure([ours], [threads], 16, self.tokens, self.rounds)[0]
            decode = speed.middle(found.decode[threads])
            size = decoder.bytes_per_token
            rows.append({"precision": bits, "kl": kl, "decode_tokens_per_second": decode, "bytes_per_token": size})
            self.progress.say(f"{bits:g} bits: KL {kl:.4f}, {decode:.1f} tokens a second")
        decoder.set_precision(None)

    def _keep_rates(self) -> None:
        self.figures |= _medians(self.found[0])
        if len(self.found) > 1:
            self.figures["against"] = _medians(self.found[1])
            for kind in ("decode", "prefill"):
                ours, theirs = (getattr(speeds, kind) for speeds in self.found)
                both = {str(count): speed.ratio(ours[count], theirs[count]) for count in ours if count in theirs}
                self.figures[f"{kind}_ratio"] = both


class _Telling:
    """Says what is being measured, how long it may still take, and each row when it is there."""

    def __init__(self, session: Session, planned: Sequence[speed.Step]) -> None:
        self.session, self.planned = session, planned
        self.step, self.begun, self.told = planned[0], time.monotonic(), False

    def now(self) -> str:
        """Returns the measurement that is running, in words."""
        who = "llama.cpp, " if self.step.runner else ""
        what = "reading" if self.step.reading else "writing"
        return f"{who}{self.step.threads} threads, round {self.step.round} of {self.session.rounds}: {what}"

    def begins(self, step: speed.Step) -> bool:
        """Notes the next timing; True, so that a bar goes on."""
        if step.threads != self.step.threads:
            self.row(self.step.threads)
        if step.round == 1 and not self.told:
            self.told = True
            rest = (time.monotonic() - self.begun) * (len(self.planned) / self.planned.index(step) - 1)
            self.session.progress.say(f"This takes about {rest:.0f} more seconds, and then some for memory.")
        self.step = step
        return step != self.planned[0]

    def row(self, threads: int) -> None:
        """Says the medians of a thread count."""
        for number, speeds in enumerate(self.session.found):
            who = "llama.cpp, " if number else ""
            decode, prefill = speed.middle(speeds.decode[threads]), speed.middle(speeds.prefill[threads])
            said = f"{who}{threads} threads: writes {decode:.1f}, reads {prefill:.0f} tokens a second"
            self.session.progress.say(said)


def _medians(speeds: speed.Speeds) -> dict[str, dict[str, float]]:
    return {
        f"{kind}_tokens_per_second": {str(count): speed.middle(values) for count, values in found.items()}
        for kind, found in (("decode", speeds.decode), ("prefill", speeds.prefill))
    }
