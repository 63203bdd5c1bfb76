// The decoder in Python; mediant.runtime.decoder and mediant.runtime.speculative state the contracts.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <mutex>

#include "../registry.h"
#include "block_sparse_linear.h"
#include "dense_linear.h"
#include "generation.h"
#include "packed_linear.h"

namespace {

using namespace mediant::decoder;

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Tokens = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// A linear layer together with the Python object whose memory it uses.
template <typename Base>
struct Kept final : Linear {
    nb::object owner;
    Base base;
    template <typename... Arguments>
    explicit Kept(nb::object owner, Arguments &&...arguments) : owner(std::move(owner)), base(arguments...) {
        rows = base.rows, columns = base.columns;
    }
    uint64_t form(bool precise) const override { return base.form(precise); }
    std::unique_ptr<Prepared> scratch() const override { return base.scratch(); }
    void resize(Prepared &p, int64_t tokens, bool precise) const override { base.resize(p, tokens, precise); }
    void prepare(Prepared &p, const float *x, int64_t begin, int64_t end, const uint8_t *firsts) const override {
        base.prepare(p, x, begin, end, firsts);
    }
    void multiply(const Prepared &p, int64_t tokens, float *y, int64_t stride, int thread, int threads) const override {
        base.multiply(p, tokens, y, stride, thread, threads);
    }
    Share share(int thread, int threads) const override { return base.share(thread, threads); }
    void row(int64_t index, float *out) const override { base.row(index, out); }
    int64_t bytes() const override { return base.bytes(); }
};

Vector vector_of(const Floats &array) { return Vector(array.data(), array.data() + array.size()); }

Shape shape_of(const nb::dict &d) {
    Shape s;
    const auto whole = [&](const char *name) { return nb::cast<int64_t>(d[name]); };
    const auto real = [&](const char *name) { return static_cast<float>(nb::cast<double>(d[name])); };
    s.hidden = whole("hidden"), s.heads = whole("heads"), s.kv_heads = whole("kv_heads");
    s.head_dim = whole("head_dim"), s.inner = whole("inner"), s.vocabulary = whole("vocabulary");
    s.positions = whole("positions"), s.embedding = whole("embedding");
    s.layer_norm = nb::cast<bool>(d["layer_norm"]), s.norm_first = nb::cast<bool>(d["norm_first"]);
    s.epsilon = real("epsilon"), s.attention_scale = real("attention_scale");
    s.attention_cap = real("attention_cap"), s.logit_cap = real("logit_cap");
    s.embedding_scale = real("embedding_scale");
    const auto activation = nb::cast<std::string>(d["activation"]);
    if (activation == "silu") s.activation = Activation::silu;
    else if (activation == "gelu_tanh") s.activation = Activation::gelu_tanh;
    else if (activation == "gelu") s.activation = Activation::gelu;
    else if (activation == "relu") s.activation = Activation::relu;
    else throw std::invalid_argument("there is no activation " + activation);
    return s;
}

class Decoder {
  public:
    Decoder(const nb::dict &shape, const std::vector<std::pair<int64_t, int>> &layers,
            const std::vector<std::pair<Floats, float>> &ropes, int threads)
        : net(shape_of(shape), layers_of(layers), ropes_of(ropes), std::max(threads, 1)) {}

    void set_linear(const std::string &name, int64_t layer, std::vector<std::shared_ptr<Linear>> views, const Floats *bias) {
        Slot &slot = slot_of(name, layer);
        slot.views = std::move(views);
        if (bias) slot.bias = vector_of(*bias);
    }

    void set_norm(const std::string &name, int64_t layer, const Floats &weight, const Floats *bias) {
        Norm &norm = norm_of(name, layer);
        norm.weight = vector_of(weight);
        if (bias) norm.bias = vector_of(*bias);
    }

    std::unique_ptr<KvCache> cache(int bits, int64_t chunk) {
        std::vector<int64_t> windows;
        for (const Layer &layer : net.layers) windows.push_back(layer.window);
        return std::make_unique<KvCache>(net.shape.kv_heads, net.shape.head_dim, windows, chunk, bits);
    }

    void forward(const std::vector<KvCache *> &caches, const std::vector<Tokens> &tokens, bool all, Out logits) {
        std::vector<Span> spans;
        int64_t rows = 0;
        if (caches.size() != tokens.size()) throw std::invalid_argument("there must be one run of tokens for each cache");
        for (size_t i = 0; i < caches.size(); ++i) {
            const int64_t count = static_cast<int64_t>(tokens[i].size());
            check(*caches[i], tokens[i].data(), count);
            if (std::find(caches.begin(), caches.begin() + static_cast<int64_t>(i), caches[i]) !=
                caches.begin() + static_cast<int64_t>(i))
                throw std::invalid_argument("a cache can be in a batch once");
            spans.push_back({caches[i], tokens[i].data(), count});
            rows += all ? count : 1;
        }
        const bool some = logits.shape(0) > 0;
        if (some && (static_cast<int64_t>(logits.shape(0)) != rows ||
                     static_cast<int64_t>(logits.shape(1)) != net.shape.vocabulary))
            throw std::invalid_argument("the logits have another shape than the tokens ask for");
        nb::gil_scoped_release release;
        const std::lock_guard lock(busy);
        net.forward(spans, !some ? Logits::none : all ? Logits::all : Logits::last, logits.data());
    }

    std::vector<int32_t> generate(KvCache &cache, int32_t token, int64_t count, Sampler &sampler,
                                  const std::vector<int32_t> &stops) {
        check(cache, &token, 1, count);
        nb::gil_scoped_release release;
        const std::lock_guard lock(busy);
        return mediant::decoder::generate(net, cache, token, count, sampler, stops);
    }

    std::tuple<std::vector<int32_t>, int64_t, int64_t, int64_t> speculate(
        KvCache &cache, int32_t token, int64_t count, int64_t length, const Views &draft, const Views &whole,
        Sampler &sampler, const std::vector<int32_t> &stops) {
        check(cache, &token, 1, count);
        if (length < 1 || length >= cache.chunk()) throw std::invalid_argument("a draft is shorter than a chunk of the cache");
        nb::gil_scoped_release release;
        const std::lock_guard lock(busy);
        Drafts drafts;
        auto written = mediant::decoder::speculate(net, cache, token, count, length, draft, whole, sampler, stops, drafts);
        return {std::move(written), drafts.drafted, drafts.accepted, drafts.rounds};
    }

    Network net;

  private:
    std::mutex busy;

    void check(const KvCache &cache, const int32_t *tokens, int64_t count, int64_t more = 0) const {
        if (count < 1 || count > cache.chunk()) throw std::invalid_argument("a pass takes from 1 token to a chunk of the cache");
        if (cache.length() + count + std::max<int64_t>(more - 1, 0) > net.shape.positions)
            throw std::invalid_argument("the sequence would have more positions than the model");
        for (int64_t i = 0; i < count; ++i)
            if (tokens[i] < 0 || tokens[i] >= net.shape.vocabulary)
                throw std::invalid_argument("a token is not in the vocabulary");
    }

    Slot &slot_of(const std::string &name, int64_t layer) {
        if (layer < 0) {
            if (name == "embedding") return net.embedding;
            if (name == "head") return net.head;
            if (name == "project_in") return net.project_in;
            if (name == "project_out") return net.project_out;
            if (name == "positions") return net.positions;
        } else {
            Layer &l = net.layers.at(static_cast<size_t>(layer));
            if (name == "query") return l.query;
            if (name == "key") return l.key;
            if (name == "value") return l.value;
            if (name == "out") return l.out;
            if (name == "gate") return l.gate;
            if (name == "up") return l.up;
            if (name == "down") return l.down;
        }
        throw std::invalid_argument("a decoder has no matrix " + name);
    }

    Norm &norm_of(const std::string &name, int64_t layer) {
        if (layer < 0 && name == "final_norm") return net.final_norm;
        if (layer >= 0) {
            Layer &l = net.layers.at(static_cast<size_t>(layer));
            if (name == "attention_norm") return l.attention_norm;
            if (name == "attention_post_norm") return l.attention_post_norm;
            if (name == "mlp_norm") return l.mlp_norm;
            if (name == "mlp_post_norm") return l.mlp_post_norm;
            if (name == "query_norm") return l.query_norm;
            if (name == "key_norm") return l.key_norm;
        }
        throw std::invalid_argument("a decoder has no norm " + name);
    }

    static std::vector<Layer> layers_of(const std::vector<std::pair<int64_t, int>> &given) {
        std::vector<Layer> layers(given.size());
        for (size_t i = 0; i < given.size(); ++i) layers[i].window = given[i].first, layers[i].rope = given[i].second;
        return layers;
    }

    static std::vector<Rope> ropes_of(const std::vector<std::pair<Floats, float>> &given) {
        std::vector<Rope> ropes;
        for (const auto &[frequencies, scale] : given) ropes.push_back({vector_of(frequencies), scale});
        return ropes;
    }
};

void sequences(nb::module_ &m) {
    nb::class_<KvCache>(m, "KvCache")
        .def_prop_ro("length", &KvCache::length)
        .def_prop_ro("chunk", &KvCache::chunk)
        .def_prop_ro("bytes", &KvCache::bytes)
        .def("truncate", &KvCache::truncate, nb::arg("length"));
    nb::class_<Sampler>(m, "Sampler")
        .def(
            "__init__",
            [](Sampler *self, float temperature, int64_t top_k, float top_p, float min_p, float penalty, uint64_t seed,
               int64_t vocabulary) {
                new (self) Sampler(Sampling{temperature, top_k, top_p, min_p, penalty}, seed, vocabulary);
            },
            nb::arg("temperature"), nb::arg("top_k"), nb::arg("top_p"), nb::arg("min_p"), nb::arg("repetition_penalty"),
            nb::arg("seed"), nb::arg("vocabulary"))
        .def("saw", [](Sampler &s, Tokens tokens) { s.saw(tokens.data(), static_cast<int64_t>(tokens.size())); })
        .def("next", [](Sampler &s, nb::ndarray<float, nb::ndim<1>, nb::c_contig> logits) { return s.next(logits.data()); })
        .def("distribution", [](Sampler &s, nb::ndarray<float, nb::ndim<1>, nb::c_contig> logits) {
            Vector found;
            s.distribution(logits.data(), found);
            return found;
        });
}

}  // namespace

MEDIANT_KERNEL(decoder) {
    nb::class_<Linear>(m, "Linear")
        .def_ro("rows", &Linear::rows)
        .def_ro("columns", &Linear::columns)
        .def_prop_ro("bytes", &Linear::bytes);
    m.def("dense_linear", [](Matrix w) -> std::shared_ptr<Linear> {
        return std::make_shared<Kept<DenseLinear>>(nb::cast(w), w.data(), Number::float32, w.shape(0), w.shape(1));
    });
    m.def("half_linear", [](Words w, bool bfloat16) -> std::shared_ptr<Linear> {
        const Number number = bfloat16 ? Number::bfloat16 : Number::float16;
        return std::make_shared<Kept<DenseLinear>>(nb::cast(w), w.data(), number, w.shape(0), w.shape(1));
    });
    m.def("block_sparse_linear", [](Matrix w, Starts starts, int64_t width, int64_t columns) -> std::shared_ptr<Linear> {
        const auto rows = static_cast<int64_t>(w.shape(0)), blocks = static_cast<int64_t>(starts.shape(0));
        const BlockSparse matrix{w.data(), starts.data(), rows, columns, static_cast<int64_t>(w.shape(1)), rows / blocks,
                                 width};
        return std::make_shared<Kept<BlockSparseLinear>>(nb::make_tuple(w, starts), matrix);
    });
    m.def("packed_linear", [](nb::object matrix) -> std::shared_ptr<Linear> {
        const auto &view = nb::cast<const mediant::PackedMatrix &>(matrix);
        return std::make_shared<Kept<PackedLinear>>(matrix, view);
    });
    m.def("decoder_instruction_set", [] { return std::string(ops().name); });
    sequences(m);
    nb::class_<Decoder>(m, "Decoder")
        .def(nb::init<const nb::dict &, const std::vector<std::pair<int64_t, int>> &,
                      const std::vector<std::pair<Floats, float>> &, int>(),
             nb::arg("shape"), nb::arg("layers"), nb::arg("ropes"), nb::arg("threads"))
        .def("set_linear", &Decoder::set_linear, nb::arg("name"), nb::arg("layer"), nb::arg("views"), nb::arg("bias").none())
        .def("set_norm", &Decoder::set_norm, nb::arg("name"), nb::arg("layer"), nb::arg("weight"), nb::arg("bias").none())
        .def("set_position_offset", [](Decoder &d, int64_t offset) { d.net.position_offset = offset; })
        .def("set_precise", [](Decoder &d, bool precise) { d.net.shape.precise = precise; })
        .def("set_threads",
             [](Decoder &d, int threads) { d.net.pool = std::make_unique<Pool>(std::max(threads, 1)); })
        .def("set_views", [](Decoder &d, const Views &views) { set_views(d.net, views); })
        .def("view_counts",
             [](Decoder &d) {
                 std::vector<int64_t> counts;
                 for (const Slot *slot : d.net.slots()) counts.push_back(static_cast<int64_t>(slot->views.size()));
                 return counts;
             })
        .def_prop_ro("weight_bytes", [](Decoder &d) { return d.net.weight_bytes(); })
        .def("check", [](Decoder &d) { d.net.check(); })
        .def("cache", &Decoder::cache, nb::arg("bits"), nb::arg("chunk"))
        .def("forward", &Decoder::forward, nb::arg("caches"), nb::arg("tokens"), nb::arg("all"), nb::arg("logits").noconvert())
        .def("generate", &Decoder::generate, nb::arg("cache"), nb::arg("token"), nb::arg("count"), nb::arg("sampler"),
             nb::arg("stops"))
        .def("speculate", &Decoder::speculate, nb::arg("cache"), nb::arg("token"), nb::arg("count"), nb::arg("length"),
             nb::arg("draft"), nb::arg("whole"), nb::arg("sampler"), nb::arg("stops"));
}
