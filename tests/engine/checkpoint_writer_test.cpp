#include "engine/checkpoint_writer.hpp"

#include <cmath>

#include "core/file.hpp"
#include "fathom/engine/checkpoint.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

// Standard deviation of a matrix as it is used: value * scale.
double deviation(const Weight& weight) {
  const std::int64_t k = weight.values.size(1);
  double squares = 0;
  for (std::int64_t i = 0; i < weight.values.count(); ++i) {
    double value = 0;
    if (weight.values.dtype == DType::f8e4m3) {
      const auto block = i / k / 128 * weight.scale.step(0) + i % k / 128;
      value = f8e4m3_to_float(weight.values.as<std::uint8_t>()[i]) * weight.scale.as<float>()[block];
    } else {
      value = bf16_to_float(weight.values.as<std::uint16_t>()[i]);
    }
    squares += value * value;
  }
  return std::sqrt(squares / static_cast<double>(weight.values.count()));
}

TEST(CheckpointWriter, MakesCompleteModelsOfAnyKind) {
  for (const int variant : {0, 1, 2, 3, 4}) {
    ModelConfig config = small_config();
    if (variant == 1) config.quantization_config->ue8m0 = true;
    if (variant == 2) config.quantization_config.reset();
    if (variant == 3) config.num_nextn_predict_layers = 0;
    if (variant == 4) config.n_routed_experts = 0;
    const TemporaryDirectory dir;
    write_checkpoint(dir.path(), config, {.seed = variant, .shards = variant % 2 == 0 ? 1 : 3});
    const Checkpoint checkpoint = Checkpoint::open(dir.path());
    EXPECT_NO_THROW(checkpoint.check());
    EXPECT_EQ(config_text(checkpoint.config()), config_text(config));
    // q_b_proj's k of 96 is three quarters of a block, so its deviation is that of 128.
    const Weight q = checkpoint.weight("model.layers.0.self_attn.q_b_proj.weight", 4 * 96, 96);
    EXPECT_EQ(q.scale.given(), variant != 2);
    EXPECT_NEAR(deviation(q), 1 / std::sqrt(variant == 2 ? 96 : 128), 0.04);
  }
}

TEST(CheckpointWriter, OneSeedOneContent) {
  const TemporaryDirectory a;
  const TemporaryDirectory b;
  const TemporaryDirectory c;
  write_checkpoint(a.path(), small_config(), {.seed = 5});
  write_checkpoint(b.path(), small_config(), {.seed = 5});
  write_checkpoint(c.path(), small_config(), {.seed = 6});
  const auto bytes = [](const TemporaryDirectory& dir) {
    return read_file(dir / "model.safetensors", 1 << 24);
  };
  EXPECT_EQ(bytes(a), bytes(b));
  EXPECT_NE(bytes(a), bytes(c));
}

TEST(CheckpointWriter, BigConfigIsAsBigAsItSays) {
  const TemporaryDirectory dir;
  write_checkpoint(dir.path(), two_gigabyte_config(), {.shards = 2, .sparse = true});
  EXPECT_GT(Checkpoint::open(dir.path()).total_bytes(), std::int64_t{2} << 30);
}

}  // namespace
}  // namespace fathom
