// The next token from the logits: the likeliest, or a draw.
#pragma once

#include <cstdint>
#include <vector>

namespace mediant::decoder {

struct Sampling {
    float temperature = 0;  // 0: the likeliest
    int64_t top_k = 0;      // 0: no limit
    float top_p = 1, min_p = 0;
    float repetition_penalty = 1;
};

struct Choice {
    int32_t token;
    float weight;
};

class Sampler {
  public:
    Sampler(const Sampling &sampling, uint64_t seed, int64_t vocabulary);

    const Sampling &sampling() const { return sampling_; }
    bool greedy() const { return sampling_.temperature <= 0; }
    // Tokens that the repetition penalty counts as used.
    void saw(const int32_t *tokens, int64_t count);
    int32_t next(float *logits);
    // What `next` draws from, in the order of the tokens: [vocabulary] probabilities. Changes the logits.
    void distribution(float *logits, std::vector<float> &probabilities);
    // A token with the given probabilities, which need not sum to one.
    int32_t draw(const std::vector<float> &weights);
    double uniform();

  private:
    void penalize(float *logits) const;
    void weigh(const float *logits);
    void keep_likeliest();
    void candidates();

    Sampling sampling_;
    uint64_t state_;
    int64_t vocabulary_;
    std::vector<bool> seen_;
    std::vector<int32_t> seen_list_;
    std::vector<float> weights_;
    std::vector<Choice> kept_;
};

}  // namespace mediant::decoder
