// A row's bytes depend on its own sequence alone: not on the batch, the mode, the chunk, the threads, the
// pages.
#include <bit>
#include <map>

#include "engine/golden.hpp"
#include "fathom/engine/config.hpp"

namespace fathom {
namespace {

struct Variant {
  Precision precision;
  KvFormat kv;
};

std::string name_of(const Variant& variant) {
  return std::string(to_string(variant.precision)) + ", " + std::string(to_string(variant.kv)) + " cache";
}

constexpr Variant kVariants[] = {{Precision::fp8, KvFormat::fp8},
                                 {Precision::fp8, KvFormat::bf16},
                                 {Precision::fp8, KvFormat::f32},
                                 {Precision::fp32, KvFormat::f32},
                                 {Precision::fp32, KvFormat::fp8}};

using Rows = std::vector<float>;

/// Sequences that share one cache, and steps over any of them.
class Batch {
 public:
  Batch(const Model& model, std::int64_t pages, const Context& context)
      : model_(model), context_(context), runner_(model, context), cache_(model.cache_shape(), pages) {}

  struct Share {
    SequenceId sequence;
    std::int64_t prefix;
    std::span<const std::int32_t> tokens;
  };

  Rows step(ForwardMode mode, const std::vector<Share>& shares) { return run(mode, shares, nullptr); }
  /// The MTP layer; `states` are the hidden states of the rows.
  Rows step_mtp(ForwardMode mode, const std::vector<Share>& shares, const Rows& states) {
    return run(mode, shares, &states);
  }
  KvCache& cache() { return cache_; }
  std::int64_t width() const { return model_.config().hidden_size; }

 private:
  Rows run(ForwardMode mode, const std::vector<Share>& shares, const Rows* states) {
    std::vector<BatchRequest> requests;
    Ids tokens;
    for (const Share& share : shares) {
      const auto count = static_cast<std::int64_t>(share.tokens.size());
      cache_.reserve(share.sequence, share.prefix + count);
      requests.push_back({.sequence = share.sequence, .prefix = share.prefix, .extend = count});
      tokens.insert(tokens.end(), share.tokens.begin(), share.tokens.end());
    }
    batch_.build(mode, requests, cache_, model_.config().index_topk, context_);
    Rows hidden(tokens.size() * static_cast<std::size_t>(width()), NAN);
    const auto rows = static_cast<std::int64_t>(tokens.size());
    const TensorView out = TensorView::contiguous(hidden.data(), DType::f32, {rows, width()});
    if (states == nullptr) {
      runner_.forward(batch_, tokens, cache_, out);
    } else {
      const auto in = TensorView::contiguous(const_cast<float*>(states->data()), DType::f32, {rows, width()});
      runner_.forward_mtp(batch_, tokens, in, cache_, out);
    }
    return hidden;
  }

  const Model& model_;
  const Context& context_;
  Runner runner_;
  KvCache cache_;
  BatchMetadata batch_;
};

/// Rows [begin, end) of a matrix `width` wide.
Rows slice(const Rows& rows, std::int64_t begin, std::int64_t end, std::int64_t width) {
  return Rows(rows.begin() + begin * width, rows.begin() + end * width);
}

Rows joined(std::initializer_list<Rows> parts) {
  Rows all;
  for (const Rows& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

void expect_same(const Rows& got, const Rows& expected, const char* what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i]), std::bit_cast<std::uint32_t>(expected[i]))
        << what << ", element " << i << " of " << got.size() << ": " << got[i] << " and " << expected[i];
  }
}

// Three sequences of different lengths, two of them beyond index_topk (256), each alone in one pass; then the
// same tokens together, in every mode, over interleaved pages, with rejected drafts in between.
TEST(Invariance, ModesAndBatchesAgreeBitForBit) {
  const Ids held_out = golden_perplexity_ids();
  const Ids a(held_out.begin(), held_out.begin() + 290), b(held_out.begin() + 1024, held_out.begin() + 1304),
      c(held_out.begin() + 2048, held_out.begin() + 2070);
  for (const Variant& variant : kVariants) {
    SCOPED_TRACE(name_of(variant));
    const Model model = Model::load(tiny_model_dir(),
                                    {.precision = variant.precision, .kv_cache = variant.kv}, test_context());
    const std::int64_t width = model.config().hidden_size;
    const auto part = [](const Ids& ids, std::int64_t begin, std::int64_t end) {
      return std::span(ids).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    };
    std::map<const Ids*, Rows> alone, alone_mtp;
    for (const Ids* ids : {&a, &b, &c}) {
      Batch batch(model, 5, test_context(1));
      const auto size = static_cast<std::int64_t>(ids->size());
      const SequenceId id = batch.cache().add_sequence();
      alone[ids] = batch.step(ForwardMode::extend, {{id, 0, *ids}});
      alone_mtp[ids] = batch.step_mtp(ForwardMode::extend, {{id, 0, part(*ids, 1, size)}},
                                      slice(alone[ids], 0, size - 1, width));
    }

    Batch batch(model, 16, test_context(2));
    const SequenceId sa = batch.cache().add_sequence(), sb = batch.cache().add_sequence(),
                     sc = batch.cache().add_sequence();
    const auto expected = [&](const Ids& ids, std::int64_t begin, std::int64_t end) {
      return slice(alone[&ids], begin, end, width);
    };
    const auto expected_mtp = [&](const Ids& ids, std::int64_t begin, std::int64_t end) {
      return slice(alone_mtp[&ids], begin, end, width);
    };
    expect_same(batch.step(ForwardMode::extend,
                           {{sa, 0, part(a, 0, 100)}, {sb, 0, part(b, 0, 250)}, {sc, 0, part(c, 0, 7)}}),
                joined({expected(a, 0, 100), expected(b, 0, 250), expected(c, 0, 7)}), "first chunks");
    expect_same(batch.step(ForwardMode::extend, {{sc, 7, part(c, 7, 8)}, {sa, 100, part(a, 100, 270)}}),
                joined({expected(c, 7, 8), expected(a, 100, 270)}), "second chunks");
    // Drafts that will be refused leave their entries behind; nobody may see them.
    batch.step(ForwardMode::target_verify,
               {{sa, 270, part(b, 0, 5)}, {sb, 250, part(c, 0, 5)}, {sc, 8, part(a, 0, 5)}});
    batch.cache().set_length(sa, 270);
    batch.cache().set_length(sb, 250);
    batch.cache().set_length(sc, 8);
    expect_same(
        batch.step(ForwardMode::target_verify,
                   {{sb, 250, part(b, 250, 258)}, {sa, 270, part(a, 270, 278)}, {sc, 8, part(c, 8, 16)}}),
        joined({expected(b, 250, 258), expected(a, 270, 278), expected(c, 8, 16)}), "verification");
    for (std::int64_t i = 0; i < 3; ++i) {
      expect_same(
          batch.step(ForwardMode::decode, {{sa, 278 + i, part(a, 278 + i, 279 + i)},
                                           {sb, 258 + i, part(b, 258 + i, 259 + i)},
                                           {sc, 16 + i, part(c, 16 + i, 17 + i)}}),
          joined({expected(a, 278 + i, 279 + i), expected(b, 258 + i, 259 + i), expected(c, 16 + i, 17 + i)}),
          "decoding");
    }

    // The MTP layer over the same positions: prefill, drafts that are thrown away, refreshed rows.
    expect_same(batch.step_mtp(ForwardMode::extend, {{sa, 0, part(a, 1, 265)}, {sb, 0, part(b, 1, 11)}},
                               joined({expected(a, 0, 264), expected(b, 0, 10)})),
                joined({expected_mtp(a, 0, 264), expected_mtp(b, 0, 10)}), "MTP prefill");
    batch.step_mtp(ForwardMode::decode, {{sa, 264, part(b, 0, 1)}, {sb, 10, part(c, 0, 1)}},
                   joined({expected(b, 0, 1), expected(c, 0, 1)}));
    expect_same(
        batch.step_mtp(ForwardMode::draft_extend, {{sa, 264, part(a, 265, 269)}, {sb, 10, part(b, 11, 13)}},
                       joined({expected(a, 264, 268), expected(b, 10, 12)})),
        joined({expected_mtp(a, 264, 268), expected_mtp(b, 10, 12)}), "MTP draft extension");
    expect_same(batch.step(ForwardMode::idle, {}), {}, "idle");
  }
}

// Through the public interface: chunks of 1, 7, 64 and all tokens, 1 and 2 threads.
TEST(Invariance, LogitsDoNotDependOnChunksOrThreads) {
  const Ids all = golden_perplexity_ids();
  const std::span<const std::int32_t> ids(all.data() + 3 * 1024, 330);
  for (const Precision precision : {Precision::fp8, Precision::fp32}) {
    SCOPED_TRACE(to_string(precision));
    std::vector<float> expected;
    for (const int threads : {1, 2}) {
      for (const std::int64_t chunk : {0, 1, 7, 64}) {
        if (kSanitized && (threads == 1) != (chunk == 0 || chunk == 64)) continue;
        SCOPED_TRACE(std::to_string(threads) + " threads, chunks of " + std::to_string(chunk));
        Session session(tiny_model(precision), test_context(threads), {.prefill_chunk = chunk});
        const std::vector<float> logits = session.logits(ids, 90);
        if (expected.empty()) expected = logits;
        expect_same(logits, expected, "logits");
      }
    }
  }
}

}  // namespace
}  // namespace fathom
