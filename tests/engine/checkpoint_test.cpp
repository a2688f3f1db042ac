#include "fathom/engine/checkpoint.hpp"

#include "fathom/engine/plan.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

std::filesystem::path bundled_model() { return std::filesystem::path(FATHOM_SOURCE_DIR) / "models/tiny-dsv32"; }

TEST(Checkpoint, OpensTheBundledModel) {
  const Checkpoint checkpoint = Checkpoint::open(bundled_model());
  EXPECT_NO_THROW(checkpoint.check());
  EXPECT_EQ(checkpoint.total_bytes(), 27480552);
  const ModelPlan plan = plan_model(checkpoint);
  EXPECT_EQ(plan.parameters, 20987776);
  EXPECT_TRUE(plan.missing.empty());
  EXPECT_EQ(plan.expected, plan.present);
  const Weight w = checkpoint.weight("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 576, 256);
  EXPECT_EQ(shape_string(w.scale), "[5,2]");
}

}  // namespace
}  // namespace fathom
