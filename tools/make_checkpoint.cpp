// make_checkpoint: writes a checkpoint of random weights, or sparse files of the official size, for
// experiments.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>

#include "engine/checkpoint_writer.hpp"
#include "fathom/core/error.hpp"

int main(int argc, char** argv) {
  using namespace fathom;
  CLI::App app("Writes a DeepSeek-V3.2-style checkpoint of random weights (or of none) into a directory.");
  std::string directory;
  std::string model = "small";
  std::string config_directory;
  std::vector<std::string> omitted;
  bool bf16 = false;
  WriteOptions options;
  const std::map<std::string, ModelConfig (*)()> models{
      {"small", small_config}, {"2gb", two_gigabyte_config}, {"official", official_config}};
  app.add_option("directory", directory, "where to write; made if it is not there")->required();
  app.add_option("--model", model, "small (2 MB), 2gb, or official (DeepSeek-V3.2: 690 GB, so use --sparse)")
      ->check(CLI::IsMember({"small", "2gb", "official"}))
      ->capture_default_str();
  app.add_option("--config", config_directory, "take the config of this model directory instead");
  app.add_option("--shards", options.shards, "files the tensors are spread over")
      ->check(CLI::Range(1, 100000));
  app.add_option("--seed", options.seed, "seed of the random weights");
  app.add_flag("--sparse", options.sparse, "headers and holes only: weights are zero and take no disk");
  app.add_flag("--bf16", bf16, "bf16 matrices without scales");
  app.add_option("--omit", omitted, "leave out the tensor of this name; may be repeated");
  CLI11_PARSE(app, argc, argv);
  try {
    ModelConfig config = config_directory.empty() ? models.at(model)() : ModelConfig::load(config_directory);
    if (bf16) config.quantization_config.reset();
    options.omit = [&](const ExpectedTensor& tensor) {
      return std::find(omitted.begin(), omitted.end(), tensor.name) != omitted.end();
    };
    write_checkpoint(directory, config, options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_checkpoint: %s\n", error.what());
    return 2;
  }
  return 0;
}
