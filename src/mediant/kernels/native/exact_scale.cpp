// Native twin of mediant.kernels.exact_scale, which states the contract and the mathematics. It adds the same terms in
// the same order and so returns the same bits. What it saves: breakpoints are made and sorted in blocks of rising
// t = 1/s, of which the first ends where the largest weight meets an end of the grid, and the sweep ends once clipping
// alone costs more than the best state found.
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "registry.h"

namespace {

using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tables = nb::ndarray<const double, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Steps = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Choices = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kBlockGrowth = 1.5;      // each block of breakpoints reaches that much further in t than the last
constexpr size_t kStopEvery = 16;         // breakpoints between two tests for the end
constexpr uint32_t kCrowd = 64;           // more breakpoints than this in a bucket: sort by comparison
constexpr double kRoundingMargin = 1e-9;  // far above the rounding of any sum here, far below what a stop saves

// What happens to the weights of one sign as t grows: at t = middle[k] / |w| they step outwards from q[k] to q[k+1].
struct Walk {
    std::vector<double> middle, rise, square_rise;
    double first, last;

    Walk(const double *q, size_t size) : first(q[0]), last(q[0]) {
        for (size_t k = 0; k + 1 < size && q[k + 1] > q[k]; ++k) {
            middle.push_back(0.5 * (q[k] + q[k + 1]));
            rise.push_back(q[k + 1] - q[k]);
            square_rise.push_back(q[k + 1] * q[k + 1] - q[k] * q[k]);
            last = q[k + 1];
        }
    }
};

using Candidate = std::array<Walk, 2>;  // for positive and for the other weights

struct Breakpoint {
    double t, a, b;  // at t, A grows by a and B by b
};

struct Best {
    double gain = 0, a = 0, b = 1;
    int32_t choice = 0;
};

class Sweep {
public:
    explicit Sweep(const std::vector<Candidate> &candidates) : candidates_(candidates) {}

    Best fit(const float *w, const float *h, int64_t size) {
        load(w, h, size);
        best_ = {};
        for (size_t c = 0; c < candidates_.size(); ++c) sweep(candidates_[c], static_cast<int32_t>(c));
        return best_;
    }

private:
    // Weights with h > 0 as one sortable word each: positive ones first, then by falling |w|, then by falling h. Equal
    // words are equal weights, so the result does not depend on the order of the group.
    void load(const float *w, const float *h, int64_t size) {
        words_.clear();
        for (int64_t i = 0; i < size; ++i) {
            const float importance = h ? h[i] : 1.0f;
            if (importance == 0) continue;
            const uint64_t sign = !(w[i] > 0);
            const uint64_t magnitude = std::bit_cast<uint32_t>(w[i]) & 0x7fffffff;
            words_.push_back(sign << 63 | (magnitude ^ 0x7fffffff) << 32 | (std::bit_cast<uint32_t>(importance) ^ ~0u));
        }
        std::sort(words_.begin(), words_.end());
        unpack();
    }

    void unpack() {
        const size_t size = words_.size();
        for (auto *list : {&h_, &magnitude_, &moment_, &inverse_}) list->resize(size);
        begin_ = {0, 0}, end_ = {0, size}, total_ = 0;
        for (size_t i = 0; i < size; ++i) {
            const double m = std::bit_cast<float>(static_cast<uint32_t>(words_[i] >> 32 & 0x7fffffff) ^ 0x7fffffff);
            const double h = std::bit_cast<float>(static_cast<uint32_t>(words_[i]) ^ ~0u);
            h_[i] = h, magnitude_[i] = m, moment_[i] = h * m, inverse_[i] = 1 / m;
            total_ += h * m * m;
            end_[0] += words_[i] >> 63 ^ 1;
        }
        begin_[1] = end_[0];
        while (end_[1] > begin_[1] && magnitude_[end_[1] - 1] == 0) --end_[1];  // zeros have no breakpoints
    }

    void offer(double a, double b, int32_t choice) {
        if (!(a > 0)) return;
        const double gain = a * a / b;
        if (gain > best_.gain) best_ = {gain, a, b, choice};
    }

    void sweep(const Candidate &walks, int32_t choice) {
        double a = 0, b = 0, reach = 0;
        for (size_t i = 0; i < h_.size(); ++i) {
            const double q = walks[i >= begin_[1]].first;
            a += moment_[i] * q, b += h_[i] * (q * q);
        }
        offer(a, b, choice);
        next_.clear();
        size_t left = 0;
        for (const int side : {0, 1}) {
            if (begin_[side] >= end_[side]) continue;
            left += (end_[side] - begin_[side]) * walks[side].middle.size();
            reach = std::max(reach, walks[side].last * inverse_[begin_[side]]);
        }
        for (size_t k = 0; k < std::max(walks[0].middle.size(), walks[1].middle.size()); ++k) next_.push_back(begin_);
        for (; left > 0; reach *= kBlockGrowth) {
            gather(walks, reach);
            left -= gathered_.size();
            sort();
            if (!walk(walks, a, b, choice)) return;
        }
    }

    // The breakpoints that were not gathered before and lie below `limit`: along each step, t rises as |w| falls.
    void gather(const Candidate &walks, double limit) {
        gathered_.clear();
        least_ = kInfinity, most_ = 0;
        for (size_t k = 0; k < next_.size(); ++k)
            for (const int side : {0, 1}) {
                if (k >= walks[side].middle.size()) continue;
                const double middle = walks[side].middle[k];
                const double rise = walks[side].rise[k], square_rise = walks[side].square_rise[k];
                const size_t before = gathered_.size();
                size_t i = next_[k][side];
                for (; i < end_[side] && middle * inverse_[i] < limit; ++i)
                    gathered_.push_back({middle * inverse_[i], moment_[i] * rise, h_[i] * square_rise});
                next_[k][side] = i;
                if (gathered_.size() == before) continue;
                least_ = std::min(least_, gathered_[before].t), most_ = std::max(most_, gathered_.back().t);
            }
    }

    // Stable, by t: buckets of equal leading bits of t (as an integer a positive double keeps its order), two for
    // each breakpoint on average, then insertion.
    void sort() {
        sorted_.resize(gathered_.size());
        if (gathered_.empty()) return;
        const uint64_t low = std::bit_cast<uint64_t>(least_), high = std::bit_cast<uint64_t>(most_);
        const uint64_t octaves = (high >> 52) - (low >> 52) + 1;
        const int shift = 53 - std::bit_width(std::max<uint64_t>(1, 2 * gathered_.size() / octaves));
        const auto bucket = [=](double t) { return (std::bit_cast<uint64_t>(t) >> shift) - (low >> shift); };

        places_.assign(bucket(most_) + 2, 0);
        for (const Breakpoint &p : gathered_) ++places_[bucket(p.t) + 1];
        const bool crowded = *std::max_element(places_.begin(), places_.end()) > kCrowd;
        for (size_t j = 1; j < places_.size(); ++j) places_[j] += places_[j - 1];
        for (const Breakpoint &p : gathered_) sorted_[places_[bucket(p.t)]++] = p;
        if (crowded)
            std::stable_sort(sorted_.begin(), sorted_.end(),
                             [](const Breakpoint &x, const Breakpoint &y) { return x.t < y.t; });
        else
            insertion_sort();
    }

    void insertion_sort() {
        for (size_t i = 1; i < sorted_.size(); ++i) {
            if (sorted_[i - 1].t <= sorted_[i].t) continue;
            const Breakpoint moved = sorted_[i];
            size_t j = i;
            do sorted_[j] = sorted_[j - 1];
            while (--j > 0 && sorted_[j - 1].t > moved.t);
            sorted_[j] = moved;
        }
    }

    // Applies the sorted breakpoints to A and B; false if nothing better can follow.
    bool walk(const Candidate &walks, double &a, double &b, int32_t choice) {
        for (size_t i = 0; i < sorted_.size(); ++i) {
            const Breakpoint &p = sorted_[i];
            if (i % kStopEvery == 0 && clipped(walks, p.t) > total_ - best_.gain + kRoundingMargin * total_) return false;
            a += p.a, b += p.b;
            // Breakpoints at the same t happen together. A block's last one has no equal in the next block.
            if (i + 1 == sorted_.size() || sorted_[i + 1].t > p.t) offer(a, b, choice);
        }
        return true;
    }

    // The squared error of the weights beyond the grid's ends at s = 1/t: no smaller s makes less of it.
    double clipped(const Candidate &walks, double t) const {
        double error = 0;
        for (const int side : {0, 1}) {
            const double end = std::max(walks[side].last, 0.0) / t;
            for (size_t i = begin_[side]; i < end_[side] && magnitude_[i] > end; ++i)
                error += h_[i] * (magnitude_[i] - end) * (magnitude_[i] - end);
        }
        return error;
    }

    const std::vector<Candidate> &candidates_;
    std::vector<uint64_t> words_;
    // h, |w|, h |w| and 1/|w|, sorted; [begin_, end_) are the non-zero weights of either side.
    std::vector<double> h_, magnitude_, moment_, inverse_;
    std::array<size_t, 2> begin_{}, end_{};
    std::vector<std::array<size_t, 2>> next_;  // per step and side, the first weight whose breakpoint is to come
    std::vector<Breakpoint> gathered_, sorted_;
    std::vector<uint32_t> places_;
    double least_ = 0, most_ = 0;  // of the gathered t
    double total_ = 0;             // Σ h w^2
    Best best_;
};

void exact_scale(Floats groups, Floats weights, Tables outward, Steps step, Choices choice, int threads) {
    std::vector<Candidate> candidates;
    const size_t reach = outward.shape(2);
    for (size_t c = 0; c < outward.shape(0); ++c) {
        const double *q = outward.data() + 2 * c * reach;
        candidates.push_back({Walk(q, reach), Walk(q + reach, reach)});
    }
    const int64_t count = static_cast<int64_t>(groups.shape(0)), size = static_cast<int64_t>(groups.shape(1));
    const float *w = groups.data(), *h = weights.size() ? weights.data() : nullptr;
    double *steps = step.data();
    int32_t *choices = choice.data();
    nb::gil_scoped_release release;
    mediant::parallel_for(count, threads, [&](int64_t begin, int64_t end) {
        Sweep sweep(candidates);
        for (int64_t g = begin; g < end; ++g) {
            const Best best = sweep.fit(w + g * size, h ? h + g * size : nullptr, size);
            steps[g] = best.a / best.b, choices[g] = best.choice;
        }
    });
}

}  // namespace

MEDIANT_KERNEL(exact_scale) {
    m.def("exact_scale", &exact_scale, nb::arg("groups"), nb::arg("weights"), nb::arg("outward"),
          nb::arg("step").noconvert(), nb::arg("choice").noconvert(), nb::arg("threads"));
}
