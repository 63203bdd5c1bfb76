// The loop from token to token, wholly here, so that nothing waits for Python between two tokens.
#pragma once

#include "network.h"
#include "sampler.h"

namespace mediant::decoder {

// How much of each matrix is used, in the order of Network::slots().
using Views = std::vector<int32_t>;

struct Drafts {
    int64_t drafted = 0, accepted = 0, rounds = 0;
};

// The tokens behind `token`, which is not in the cache yet: `count` of them, or fewer if one of `stops` comes, which is
// then the last. The last one returned is not in the cache.
std::vector<int32_t> generate(Network &net, KvCache &cache, int32_t token, int64_t count, Sampler &sampler,
                              const std::vector<int32_t> &stops);

// The same tokens (in distribution, where they are drawn), `length` at a time: written by the matrices as `draft` cuts
// them, then read in one pass by those as `whole` says. (Leviathan et al. 2023, arXiv 2211.17192, section 2.3: a draft d
// with probability q(d) is kept with probability min(1, p(d) / q(d)), else replaced by a draw from max(p - q, 0).)
std::vector<int32_t> speculate(Network &net, KvCache &cache, int32_t token, int64_t count, int64_t length,
                               const Views &draft, const Views &whole, Sampler &sampler,
                               const std::vector<int32_t> &stops, Drafts &drafts);

void set_views(Network &net, const Views &views);

}  // namespace mediant::decoder
