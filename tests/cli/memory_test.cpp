// Peak memory of fathom generate in fp8: at most 1.3 x (checkpoint + caches) + 30 MB.
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/program.hpp"
#include "fathom/engine/checkpoint.hpp"

#ifndef __SANITIZE_ADDRESS__  // which keeps memory of its own
namespace fathom::cli_test {
namespace {

// The number before `unit` in the report's line that starts with `label`.
double reported(const std::string& report, const std::string& label, const std::string& unit) {
  const std::size_t line = report.find("\n" + label);
  const std::size_t end = report.find(unit, line);
  if (line == report.npos || end == report.npos) return -1;
  return std::strtod(report.c_str() + report.find_last_of(" ", end - 1), nullptr);
}

void expect_bound(const std::filesystem::path& model, const std::vector<std::int32_t>& ids,
                  double least_resident) {
  const TemporaryDirectory folder;
  write_text(folder / "ids.json", nlohmann::json(ids).dump());
  const Outcome run = fathom({"generate", "--model", model.string(), "--ids", (folder / "ids.json").string(),
                              "--max-tokens", "16", "--ignore-eos", "--precision", "fp8"});
  expect_done(run);
  const double peak = reported(run.err, "memory", " MB at most");
  const double weights = reported(run.err, "memory", " weights mapped");
  const double caches = reported(run.err, "memory", " caches");
  ASSERT_GT(peak, 0) << run.err;
  ASSERT_GT(caches, 0) << run.err;
  EXPECT_NEAR(weights, static_cast<double>(Checkpoint::open(model).total_bytes()) * 1e-6, 0.1);
  EXPECT_LE(peak, 1.3 * (weights + caches) + 30) << run.err;
  EXPECT_GE(peak, least_resident * weights) << "the run must touch most weights to show anything\n"
                                            << run.err;
}

std::vector<std::int32_t> random_ids(std::size_t count, std::int64_t vocab) {
  std::mt19937 engine(4);
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(engine() % static_cast<unsigned>(vocab)));
  return ids;
}

TEST(Memory, OfTheBundledModel) { expect_bound(bundled_model(), random_ids(300, 4096), 0.5); }

// The matrices of linear layers are holes in the files. Embedding, norms and routers are not, so that the
// tokens differ and reach most experts of every layer.
TEST(Memory, OfTwoGigabytes) {
  const ModelConfig config = two_gigabyte_config();
  const TemporaryDirectory folder;
  write_checkpoint(folder / "model", config,
                   {.shards = 4, .sparse = true, .filled = [](const ExpectedTensor& tensor) {
                      return tensor.kind == TensorKind::plain || tensor.kind == TensorKind::bias;
                    }});
  EXPECT_GT(Checkpoint::open(folder / "model").total_bytes(), 2'000'000'000);
  expect_bound(folder / "model", random_ids(600, config.vocab_size), 0.8);
}

}  // namespace
}  // namespace fathom::cli_test
#endif
