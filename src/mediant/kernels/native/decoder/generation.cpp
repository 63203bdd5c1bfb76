#include "generation.h"

#include <algorithm>

namespace mediant::decoder {

namespace {

bool stops_at(const std::vector<int32_t> &stops, int32_t token) {
    return std::find(stops.begin(), stops.end(), token) != stops.end();
}

// One draft: its tokens and, where they are drawn, the probabilities they were drawn with.
struct Draft {
    std::vector<int32_t> tokens;
    std::vector<Vector> chances;
};

Draft write_draft(Network &net, KvCache &cache, int32_t token, int64_t length, Sampler &sampler, Vector &logits) {
    Draft draft;
    const int64_t start = cache.length();
    for (int64_t i = 0; i < length; ++i) {
        net.forward({{&cache, &token, 1}}, Logits::last, logits.data());
        if (sampler.greedy()) {
            token = sampler.next(logits.data());
        } else {
            draft.chances.emplace_back();
            sampler.distribution(logits.data(), draft.chances.back());
            token = sampler.draw(draft.chances.back());
        }
        draft.tokens.push_back(token);
    }
    cache.truncate(start);
    return draft;
}

// The token behind a position whose logits are given, and whether it is the one drafted there.
int32_t judge(const Draft &draft, size_t place, float *logits, Sampler &sampler, Vector &chances, bool &kept) {
    kept = false;
    const bool drafted = place < draft.tokens.size();
    if (sampler.greedy()) {
        const int32_t token = sampler.next(logits);
        kept = drafted && token == draft.tokens[place];
        return token;
    }
    sampler.distribution(logits, chances);
    if (!drafted) return sampler.draw(chances);
    const int32_t token = draft.tokens[place];
    const Vector &q = draft.chances[place];
    const size_t index = static_cast<size_t>(token);
    if (sampler.uniform() * q[index] < chances[index]) {
        kept = true;
        return token;
    }
    Vector rest(chances.size());
    double total = 0;
    for (size_t i = 0; i < rest.size(); ++i) total += rest[i] = std::max(chances[i] - q[i], 0.0f);
    return sampler.draw(total > 0 ? rest : chances);
}

}  // namespace

void set_views(Network &net, const Views &views) {
    const auto slots = net.slots();
    if (views.size() != slots.size()) throw std::invalid_argument("there must be one view for each matrix");
    for (size_t i = 0; i < slots.size(); ++i) slots[i]->view = static_cast<size_t>(std::max(views[i], 0));
}

std::vector<int32_t> generate(Network &net, KvCache &cache, int32_t token, int64_t count, Sampler &sampler,
                              const std::vector<int32_t> &stops) {
    std::vector<int32_t> written;
    Vector logits(static_cast<size_t>(net.shape.vocabulary));
    while (static_cast<int64_t>(written.size()) < count) {
        net.forward({{&cache, &token, 1}}, Logits::last, logits.data());
        token = sampler.next(logits.data());
        sampler.saw(&token, 1);
        written.push_back(token);
        if (stops_at(stops, token)) break;
    }
    return written;
}

std::vector<int32_t> speculate(Network &net, KvCache &cache, int32_t token, int64_t count, int64_t length,
                               const Views &draft_views, const Views &whole, Sampler &sampler,
                               const std::vector<int32_t> &stops, Drafts &drafts) {
    std::vector<int32_t> written;
    const int64_t vocabulary = net.shape.vocabulary;
    Vector logits(static_cast<size_t>(vocabulary * (length + 1))), chances;
    while (static_cast<int64_t>(written.size()) < count) {
        const int64_t start = cache.length(), room = count - static_cast<int64_t>(written.size());
        set_views(net, draft_views);
        const Draft draft = write_draft(net, cache, token, std::min(length, room - 1), sampler, logits);
        set_views(net, whole);
        std::vector<int32_t> read = {token};
        read.insert(read.end(), draft.tokens.begin(), draft.tokens.end());
        net.forward({{&cache, read.data(), static_cast<int64_t>(read.size())}}, Logits::all, logits.data());
        bool kept = true, stopped = false;
        size_t place = 0;
        for (; kept && !stopped; ++place) {
            token = judge(draft, place, logits.data() + static_cast<int64_t>(place) * vocabulary, sampler, chances, kept);
            sampler.saw(&token, 1);
            written.push_back(token);
            stopped = stops_at(stops, token);
            drafts.accepted += kept;
        }
        cache.truncate(start + static_cast<int64_t>(place));
        drafts.drafted += static_cast<int64_t>(draft.tokens.size()), ++drafts.rounds;
        if (stopped) break;
    }
    return written;
}

}  // namespace mediant::decoder
