// A step's metadata on a device: the bytes of the host, in graphs that were recorded with other lengths too.
#include "fathom/cuda/device.hpp"
#include "ops/dsa_metadata/dsa_metadata_test.hpp"
#include "twin.hpp"

namespace fathom {
namespace {

// A step on the device.
struct DeviceStep {
  explicit DeviceStep(const DsaStep& step)
      : host(step),
        prefix_lens(step.prefix_lens),
        extend_lens(step.extend_lens),
        page_table(step.page_table),
        request_ids(step.request_ids),
        out(poisoned(DType::i32, {dsa_metadata_size(step.p)})) {}
  void run(const Context& context) const {
    DsaMetadataArgs args = host.args(dsa_metadata_in(host.p, out));
    args.prefix_lens = prefix_lens;
    if (host.p.packed) args.extend_lens = extend_lens;
    args.page_table = page_table;
    args.request_ids = request_ids;
    dsa_metadata(args, context);
  }
  void expect_that_of_the_host() const { expect_same_bytes(out.download().view, host.run(test_context())); }

  const DsaStep& host;
  OnDevice prefix_lens, extend_lens, page_table, request_ids, out;
};

TEST(DsaMetadataOnDevice, IsThatOfTheHost) {
  for (const DsaMetadataProblem& p : dsa_metadata_problems()) {
    SCOPED_TRACE(problem_string(p));
    const Seed seed;
    const DsaStep step(p, seed.value);
    const DeviceStep device(step);
    for (int repeat = 0; repeat < 3; ++repeat) {
      device.run(device_context("cuda:simt"));
      device.expect_that_of_the_host();
    }
  }
}

// Recorded with all lengths zero or padding; replayed with others, in the same buffers.
TEST(DsaMetadataOnDevice, FollowsTheLengthsInAGraph) {
  for (const DsaMetadataProblem& p : dsa_metadata_problems()) {
    SCOPED_TRACE(problem_string(p));
    const Seed seed;
    DsaStep step(p, seed.value);
    for (std::int64_t b = 0; b < p.batch; ++b) {
      step.prefix_lens.set(b, b % 2 == 0 ? 0 : -1);
      step.extend_lens.set(b, 0);
    }
    const DeviceStep device(step);
    const cuda::Stream stream(device_context("cuda:simt"));
    const Context context = device_context("cuda:simt").on_stream(stream.handle());
    device.run(context);  // compiled before the capture
    stream.synchronize();
    device.expect_that_of_the_host();
    const cuda::Graph graph = cuda::Graph::capture(context, [&] { device.run(context); });
    for (int i = 0; i < 8; ++i) {
      step.draw();
      device.prefix_lens.upload(step.prefix_lens);
      device.extend_lens.upload(step.extend_lens);
      graph.launch(context);
      stream.synchronize();
      device.expect_that_of_the_host();
    }
  }
}

// Nobody looks at lengths on a device: what does not fit is dropped, and nothing else is written.
TEST(DsaMetadataOnDevice, DropsWhatDoesNotFit) {
  const DsaMetadataProblem p{
      .mode = ForwardMode::draft_extend, .batch = 2, .rows = 4, .max_pages = 2, .workers = 3, .packed = true};
  DsaStep step(p, 1);
  step.prefix_lens.set(0, 126);
  step.prefix_lens.set(1, 5);
  step.extend_lens.set(0, 3);  // the last one has no page
  step.extend_lens.set(1, 9);
  step.request_ids.set(1, 77);  // no row of the page table
  const DeviceStep device(step);
  device.run(device_context("cuda:simt"));
  const Strided result = device.out.download();
  const DsaMetadata got = dsa_metadata_in(p, result.view);
  const auto at = [](const TensorView& view, std::int64_t i) { return view.as<std::int32_t>()[i]; };
  EXPECT_GE(at(got.slots, 1), 0);
  EXPECT_EQ(at(got.slots, 2), -1);
  EXPECT_EQ(at(got.slots, 3), -1);
  EXPECT_EQ(at(got.requests, 3), 1);
  EXPECT_EQ(at(got.cache_seqlens, 1), 14);

  step.page_table.set(2 * static_cast<std::int64_t>(step.request_ids[0]) + 1, 1 << 25);
  device.page_table.upload(step.page_table);
  device.run(device_context("cuda:simt"));
  EXPECT_EQ(at(dsa_metadata_in(p, device.out.download().view).slots, 1), -1) << "64 << 25 is no i32";
}

}  // namespace
}  // namespace fathom
