// What every ops_<set>.cpp needs, compiled before its instruction set is switched on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "half.h"
#include "ops.h"

#define MEDIANT_LANES static inline __attribute__((always_inline))
