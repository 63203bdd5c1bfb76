#include "ops.h"

#include <cstdlib>
#include <cstring>

namespace mediant::decoder {

namespace {

const OpsRegistration *&registered() {
    static const OpsRegistration *first = nullptr;
    return first;
}

const Ops &choice() {
    const char *wanted = std::getenv("MEDIANT_KERNELS");
    const OpsRegistration *best = nullptr;
    for (const auto *r = registered(); r; r = r->next) {
        if (!r->available()) continue;
        if (wanted && std::strcmp(wanted, r->ops->name) == 0) return *r->ops;
        if (!best || r->rank > best->rank) best = r;
    }
    return *best->ops;
}

}  // namespace

OpsRegistration::OpsRegistration(const Ops *ops, int rank, bool (*available)())
    : ops(ops), rank(rank), available(available), next(registered()) {
    registered() = this;
}

const Ops &ops() {
    static const Ops &chosen = choice();
    return chosen;
}

}  // namespace mediant::decoder
