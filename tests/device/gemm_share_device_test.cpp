// Dense products of the prefill class whose last round of tiles is shared out, or whose tiles are large: the
// bytes are those of small tiles that one block each sums whole.
#include <thread>

#include "fathom/ops/fp8_gemm_nt.hpp"
#include "on_device.hpp"
#include "ops/gemm_scales.hpp"
#include "ops/sm90_gemm.hpp"
#include "ops/tile_queues.hpp"

namespace fathom {
namespace {

const Context& hopper() { return device_context("sm90:wgmma"); }

struct Sizes {
  std::int64_t m, n, k;
};

// Operands of one product, and what it gives.
class SharedProduct {
 public:
  explicit SharedProduct(const Sizes& sizes, bool shared = true)
      : sizes_(sizes),
        random_(sizes.m + sizes.n + sizes.k),
        a_(codes(sizes.m)),
        b_(codes(sizes.n)),
        a_scale_(random_.uniform(DType::f32, {sizes.m, scale_groups(sizes.k)}, 1e-3, 2e-2)),
        b_scale_(random_.uniform(DType::f32, {scale_groups(sizes.n), scale_groups(sizes.k)}, 1e-3, 2e-2)),
        base_(random_.normal(DType::f32, {sizes.m, sizes.n})) {
    // Another device may have other rounds.
    const cuda::DeviceInfo& device = cuda::device_context(hopper()).info();
    if (device.num_sms == 132) {
      EXPECT_EQ(plan_sm90_gemm({.m = sizes.m, .n = sizes.n, .k = sizes.k}, device).kernel.shares != 0,
                shared);
    }
  }

  /// What `out` holds before.
  Tensor before(DType dtype, bool accumulate, std::int64_t padding = 0) const {
    if (!accumulate) return poisoned(dtype, {sizes_.m, sizes_.n + padding});
    Tensor copy(DType::f32, {sizes_.m, sizes_.n});
    std::memcpy(copy.as<void>(), base_.as<void>(), static_cast<std::size_t>(base_.count()) * 4);
    return copy;
  }
  /// Rows [first, last) of the product; `out` has rows of its own.
  void run(const TensorView& out, bool accumulate, std::int64_t first, std::int64_t last,
           const Context& context) const {
    TensorView to = out;
    to.shape[1] = sizes_.n;
    fp8_gemm_nt({.a = a_.view().rows(first, last),
                 .a_scale = a_scale_.view().rows(first, last),
                 .b = b_,
                 .b_scale = b_scale_,
                 .out = to.rows(first, last),
                 .accumulate = accumulate},
                context);
  }
  void run(const OnDevice& out, const Context& context) const { run(out, false, 0, sizes_.m, context); }
  /// By tiles that are summed whole: so few rows have one round.
  Strided whole(DType dtype, bool accumulate = false, std::int64_t padding = 0) const {
    const OnDevice out(before(dtype, accumulate, padding));
    constexpr std::int64_t kRows = 128;
    for (std::int64_t first = 0; first < sizes_.m; first += kRows) {
      run(out, accumulate, first, std::min(sizes_.m, first + kRows), hopper());
    }
    return out.download();
  }

 private:
  Tensor codes(std::int64_t rows) {
    Tensor codes(DType::f8e4m3, {rows, sizes_.k});
    for (std::int64_t i = 0; i < codes.count(); ++i) {
      const auto code = static_cast<std::uint8_t>(random_.engine()());
      codes.as<std::uint8_t>()[i] = (code & 0x7f) == 0x7f ? 0 : code;
    }
    return codes;
  }

  Sizes sizes_;
  Random random_;
  OnDevice a_, b_, a_scale_, b_scale_;
  Tensor base_;
};

struct Result {
  DType dtype;
  bool accumulate = false;
  std::int64_t padding = 0;  // columns between rows
};
void expect_whole(const Sizes& sizes, std::initializer_list<Result> results, bool shared = true) {
  SCOPED_TRACE(testing::Message() << sizes.m << " " << sizes.n << " " << sizes.k);
  const SharedProduct product(sizes, shared);
  for (const auto& [dtype, accumulate, padding] : results) {
    const OnDevice out(product.before(dtype, accumulate, padding));
    product.run(out, accumulate, 0, sizes.m, hopper());
    expect_same_bytes(out.download().view, product.whole(dtype, accumulate, padding).view);
  }
}

// 196 tiles of 128 x 192 in two rounds. The last ones end within the sizes.
constexpr Sizes kSmall{830, 5370, 1520};

TEST(SharedFp8Gemm, BytesAreThoseOfWholeTiles) {
  // Rows that the copy engine can store, and others.
  expect_whole(kSmall, {{.dtype = DType::bf16, .padding = 6}, {.dtype = DType::f32, .accumulate = true}});
}

TEST(SharedFp8Gemm, BytesAreThoseOfWholeTilesAtTheSizesOfTheModel) {
  for (const Sizes& sizes : {Sizes{2048, 2112, 7168},
                             {2048, 7168, 16384},
                             {4096, 2112, 7168},
                             {2688, 7168, 16384},
                             {576, 5696, 4096},
                             {1216, 5056, 3072},
                             {2368, 2624, 3072},
                             {2000, 7100, 8080}}) {
    expect_whole(sizes, {{.dtype = DType::bf16},
                         {.dtype = DType::bf16, .padding = 1},
                         {.dtype = DType::f32},
                         {.dtype = DType::f32, .accumulate = true}});
  }
}

// 64 x 144, and 128 x 128 whose warps store by themselves.
TEST(LargeFp8Tiles, BytesAreThoseOfFewRows) {
  for (const Sizes& sizes : {Sizes{2000, 569, 256}, Sizes{500, 4091, 128}}) {
    expect_whole(sizes, {{.dtype = DType::bf16, .padding = 1}, {.dtype = DType::f32}}, false);
  }
  for (const Sizes& sizes : {Sizes{2000, 576, 256}, Sizes{500, 4096, 128}}) {
    expect_whole(sizes, {{.dtype = DType::bf16}, {.dtype = DType::f32, .accumulate = true}}, false);
  }
}

// And 128 x 256.
TEST(LargeFp8Tiles, BytesAreThoseOfFewRowsAtTheSizesOfTheModel) {
  for (const Sizes& sizes : {Sizes{2048, 576, 7168}, Sizes{512, 4096, 7168}, Sizes{1000, 4091, 7168}}) {
    expect_whole(sizes,
                 {{.dtype = DType::bf16},
                  {.dtype = DType::bf16, .padding = 5},
                  {.dtype = DType::f32, .accumulate = true}},
                 false);
  }
}

TEST(SharedFp8Gemm, BytesAreTheSameOnTwoHundredRuns) {
  for (const Sizes& sizes : {kSmall, Sizes{2048, 2112, 7168}, Sizes{1216, 5056, 3072}}) {
    const SharedProduct product(sizes);
    const Strided whole = product.whole(DType::bf16);
    const OnDevice out(product.before(DType::bf16, false));
    for (int i = 0; i < 200 && !testing::Test::HasFailure(); ++i) {
      product.run(out, hopper());
      if (i % 20 == 0) expect_same_bytes(out.download().view, whole.view);
    }
    expect_same_bytes(out.download().view, whole.view);
  }
}

// Two graphs on two streams, and a launch beside them: as many as there is memory for, and one more.
TEST(SharedFp8Gemm, IsReplayedBesideItself) {
  const SharedProduct product(kSmall);
  const Strided whole = product.whole(DType::bf16);
  const Tensor nan = product.before(DType::bf16, false);
  const Context& context = hopper();
  const cuda::Stream streams[] = {cuda::Stream(context), cuda::Stream(context)};
  const OnDevice outs[] = {OnDevice(nan), OnDevice(nan), OnDevice(nan)};
  product.run(outs[2], context);  // compiles it, which cannot be recorded
  std::vector<cuda::Graph> graphs;
  for (int i = 0; i < 2; ++i) {
    const Context on_stream = context.on_stream(streams[i].handle());
    graphs.push_back(cuda::Graph::capture(on_stream, [&] { product.run(outs[i], on_stream); }));
  }
  for (int round = 0; round < 3; ++round) {
    for (const OnDevice& out : outs) out.upload(nan);
    for (int i = 0; i < 2; ++i)
      graphs[static_cast<std::size_t>(i)].launch(context.on_stream(streams[i].handle()));
    product.run(outs[2], context);
    for (const cuda::Stream& stream : streams) stream.synchronize();
    cuda::synchronize(context);
    for (const OnDevice& out : outs) expect_same_bytes(out.download().view, whole.view);
  }
}

// A recorded launch that gets no number finds no memory either.
TEST(SharedFp8Gemm, TilesAreSummedWholeWithoutMemory) {
  const SharedProduct product(kSmall);
  const OnDevice out(product.before(DType::bf16, false));
  const cuda::Stream stream(hopper());
  const Context on_stream = hopper().on_stream(stream.handle());
  product.run(out, on_stream);  // compiles it, which cannot be recorded
  stream.synchronize();
  out.upload(product.before(DType::bf16, false));
  const cuda::Graph graph = cuda::Graph::capture(on_stream, [&] {
    while (tile_queue(on_stream) >= 0) {
    }
    product.run(out, on_stream);
  });
  graph.launch(on_stream);
  stream.synchronize();
  expect_same_bytes(out.download().view, product.whole(DType::bf16).view);
}

TEST(SharedFp8Gemm, BytesAreTheSameFromManyThreadsAndStreams) {
  const Sizes sizes{2048, 2112, 7168};
  const SharedProduct product(sizes);
  const Strided whole = product.whole(DType::bf16);
  std::vector<std::unique_ptr<OnDevice>> outs;
  for (int i = 0; i < 4; ++i) outs.push_back(std::make_unique<OnDevice>(product.before(DType::bf16, false)));
  std::vector<std::thread> threads;
  for (const auto& out : outs) {
    threads.emplace_back([&] {
      const cuda::Stream stream(hopper());
      for (int i = 0; i < 100; ++i) product.run(*out, hopper().on_stream(stream.handle()));
      stream.synchronize();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& out : outs) expect_same_bytes(out->download().view, whole.view);
}

}  // namespace
}  // namespace fathom
