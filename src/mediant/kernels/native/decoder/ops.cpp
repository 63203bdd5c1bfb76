#include "ops.h"

#include <cstdlib>
#include <cstring>

namespace mediant::decoder {

const Ops &ops() {
    static const Ops &chosen = [&]() -> const Ops & {
        const char *wanted = std::getenv("MEDIANT_KERNELS");
        const Ops *fast = wanted && !std::strcmp(wanted, "portable") ? nullptr : avx2_ops();
        return fast ? *fast : portable_ops();
    }();
    return chosen;
}

}  // namespace mediant::decoder
