#include "registry.h"

NB_MODULE(_native, m) {
    m.doc() = "Native twins of the operators in mediant.kernels; each file there states the contract.";
    for (auto bind : mediant::binders()) bind(m);
}
