// fathom logits: writes the logits of some positions to a safetensors file.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "core/file.hpp"
#include "engine/loader/safetensors_writer.hpp"
#include "fathom/core/error.hpp"
#include "fathom/engine/config.hpp"
#include "model_arguments.hpp"
#include "progress.hpp"

namespace fathom::cli {
namespace {

struct LogitsArguments {
  ModelArguments model;
  std::string ids_file;
  std::string output;
  std::int64_t last = 0;  // 0: all positions
};

int logits(const LogitsArguments& arguments) {
  const std::vector<std::int32_t> ids = read_ids(arguments.ids_file);
  const std::int64_t last = arguments.last > 0 ? arguments.last : std::ssize(ids);
  if (last > std::ssize(ids)) {
    throw InvalidArgument(
        fmt::format("--last must be at most the {} ids of {}, got {}", ids.size(), arguments.ids_file, last));
  }
  { const AtomicFile writable(arguments.output); }  // fails now rather than after the work
  LoadedModel loaded(arguments.model);
  check_ids(arguments.ids_file, ids, loaded.model);
  Progress progress("logits");
  std::vector<float> values = loaded.session.logits(
      ids, last, [&](std::int64_t done, std::int64_t total) { progress.show(done, total); });
  const std::pair<std::string, TensorView> tensor{
      "logits", TensorView::contiguous(values.data(), DType::f32, {last, loaded.model.config().vocab_size})};
  safetensors::write_file(arguments.output, std::span(&tensor, 1));
  return 0;
}

}  // namespace

void add_logits(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand("logits", "Write the logits of some positions to a file");
  const auto arguments = std::make_shared<LogitsArguments>();
  arguments->model.add_to(*command);
  command->add_option("--ids", arguments->ids_file, "A JSON list of token ids")
      ->check(not_empty())
      ->type_name("FILE")
      ->required();
  command->add_option("--last", arguments->last, "Only the last so many positions (default: all)")
      ->check(whole_number(1, std::int64_t{1} << 31))
      ->type_name("N");
  command
      ->add_option("-o,--output", arguments->output,
                   "Safetensors file to write: f32 tensor `logits` [N, vocabulary]")
      ->check(not_empty())
      ->type_name("FILE")
      ->required();
  command->callback([&action, arguments] { action = [arguments] { return logits(*arguments); }; });
}

}  // namespace fathom::cli
