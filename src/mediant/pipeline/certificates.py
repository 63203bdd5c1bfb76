"""Certificates of what was changed after rounding."""

from __future__ import annotations

import dataclasses

from mediant.forms import Encoding
from mediant.forms.encoding import Original
from mediant.models.matrix_form import to_matrix
from mediant.statistics.hessian import Hessians
from mediant.values import Array, Statistics


def certified(encoding: Encoding, original: Array, statistics: Statistics, hessians: Hessians | None) -> Encoding:
    """Returns the encoding with a certificate of what it is now; errors no longer have bounds."""
    if encoding.certificate is None:
        return encoding
    info = encoding.info
    hessian = None if hessians is None else hessians.of(info.name)
    layer = Original(info, original, statistics.layers.get(info.name), hessian).layer()
    certificate = layer.certified(encoding.certificate, to_matrix(encoding.decode(), info))
    return dataclasses.replace(encoding, certificate=certificate)
