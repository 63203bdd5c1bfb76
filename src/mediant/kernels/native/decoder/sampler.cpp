#include "sampler.h"

#include <algorithm>
#include <cmath>

#include "half.h"
#include "ops.h"

namespace mediant::decoder {

Sampler::Sampler(const Sampling &sampling, uint64_t seed, int64_t vocabulary)
    : sampling_(sampling), state_(seed), vocabulary_(vocabulary), seen_(static_cast<size_t>(vocabulary)) {}

void Sampler::saw(const int32_t *tokens, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        if (seen_[static_cast<size_t>(tokens[i])]) continue;
        seen_[static_cast<size_t>(tokens[i])] = true;
        seen_list_.push_back(tokens[i]);
    }
}

// SplitMix64 (Steele et al. 2014), its upper 53 bits as a number in [0, 1).
double Sampler::uniform() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return static_cast<double>(z >> 11) * 0x1p-53;
}

void Sampler::penalize(float *logits) const {
    if (sampling_.repetition_penalty == 1) return;
    for (const int32_t token : seen_list_) {
        float &logit = logits[token];
        logit = logit > 0 ? logit / sampling_.repetition_penalty : logit * sampling_.repetition_penalty;
    }
}

int32_t Sampler::next(float *logits) {
    penalize(logits);
    if (greedy()) return static_cast<int32_t>(ops().argmax(logits, vocabulary_));
    weigh(logits);
    return draw(weights_);
}

void Sampler::distribution(float *logits, std::vector<float> &probabilities) {
    penalize(logits);
    if (greedy()) {
        probabilities.assign(static_cast<size_t>(vocabulary_), 0.0f);
        probabilities[static_cast<size_t>(ops().argmax(logits, vocabulary_))] = 1;
        return;
    }
    weigh(logits);
    double total = 0;
    for (const float weight : weights_) total += weight;
    const float factor = static_cast<float>(1 / total);
    probabilities.resize(weights_.size());
    for (size_t i = 0; i < weights_.size(); ++i) probabilities[i] = weights_[i] * factor;
}

int32_t Sampler::draw(const std::vector<float> &weights) {
    double total = 0;
    for (const float weight : weights) total += weight;
    double point = uniform() * total;
    int32_t last = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
        if (weights[i] <= 0) continue;
        last = static_cast<int32_t>(i);
        point -= weights[i];
        if (point < 0) return last;
    }
    return last;
}

// Weights, relative to the likeliest token's, of the tokens that top-k, top-p and min-p leave, in this order.
void Sampler::weigh(const float *logits) {
    weights_.resize(static_cast<size_t>(vocabulary_));
    const float top = logits[ops().argmax(logits, vocabulary_)];
    ops().exponentials(logits, vocabulary_, top, 1.0f / sampling_.temperature, weights_.data());
    if ((sampling_.top_k > 0 && sampling_.top_k < vocabulary_) || sampling_.top_p < 1) keep_likeliest();
    if (sampling_.min_p > 0)
        for (float &weight : weights_)
            if (weight < sampling_.min_p) weight = 0;
}

void Sampler::keep_likeliest() {
    candidates();
    std::sort(kept_.begin(), kept_.end(), [](const Choice &a, const Choice &b) {
        return a.weight > b.weight || (a.weight == b.weight && a.token < b.token);
    });
    if (sampling_.top_k > 0 && sampling_.top_k < static_cast<int64_t>(kept_.size()))
        kept_.resize(static_cast<size_t>(sampling_.top_k));
    if (sampling_.top_p < 1) {
        double total = 0, sum = 0;
        if (sampling_.top_k > 0)
            for (const Choice &c : kept_) total += c.weight;
        else
            for (const float weight : weights_) total += weight;
        size_t count = 0;
        while (count < kept_.size() && (count == 0 || sum < sampling_.top_p * total)) sum += kept_[count++].weight;
        kept_.resize(count);
    }
    std::fill(weights_.begin(), weights_.end(), 0.0f);
    for (const Choice &c : kept_) weights_[static_cast<size_t>(c.token)] = c.weight;
}

// Enough of the likeliest tokens for top-k and top-p, in no order: whole buckets of similar weight, so that only few
// tokens of a large vocabulary need sorting.
void Sampler::candidates() {
    constexpr int kShift = 21, kBuckets = (0x3F800000 >> kShift) + 1;
    const auto bucket = [](float weight) { return float_to_bits(weight) >> kShift; };
    std::vector<double> mass(kBuckets);
    std::vector<int64_t> count(kBuckets);
    double total = 0;
    for (const float weight : weights_) {
        if (weight <= 0) continue;
        mass[bucket(weight)] += weight, ++count[bucket(weight)], total += weight;
    }
    const int64_t enough = std::max<int64_t>(sampling_.top_k, 1);
    const double share = sampling_.top_k > 0 ? 0 : sampling_.top_p * total * (1 + 1e-9);
    int64_t tokens = 0;
    double sum = 0;
    uint32_t lowest = kBuckets;
    while (lowest > 0 && (tokens < enough || sum < share)) --lowest, tokens += count[lowest], sum += mass[lowest];
    kept_.clear();
    for (size_t i = 0; i < weights_.size(); ++i)
        if (weights_[i] > 0 && bucket(weights_[i]) >= lowest) kept_.push_back({static_cast<int32_t>(i), weights_[i]});
}

}  // namespace mediant::decoder
