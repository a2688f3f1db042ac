// fathom perplexity: how well a model predicts given tokens.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "model_arguments.hpp"
#include "progress.hpp"

namespace fathom::cli {
namespace {

struct PerplexityArguments {
  ModelArguments model;
  std::string ids_file;
  std::int64_t window = 1024;
  bool json = false;
};

int perplexity(const PerplexityArguments& arguments) {
  const auto sequences = read_id_lists(arguments.ids_file, /*least=*/2);  // the first is not predicted
  LoadedModel loaded(arguments.model);
  for (const auto& ids : sequences) check_ids(arguments.ids_file, ids, loaded.model);
  Progress progress("predict");
  std::vector<Perplexity> parts;
  for (const auto& ids : sequences) {
    parts.push_back(
        loaded.session.perplexity(ids, arguments.window, [&](std::int64_t done, std::int64_t total) {
          progress.show(std::ssize(parts) * total + done, std::ssize(sequences) * total);
        }));
  }
  progress.erase();
  const Perplexity result = pooled(parts);
  if (arguments.json) {
    const nlohmann::ordered_json json = {{"perplexity", result.perplexity},
                                         {"mean_nll", result.mean_nll},
                                         {"predicted_tokens", result.predicted},
                                         {"window", arguments.window},
                                         {"nll_per_window", result.nll_per_window}};
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("perplexity {:.4f}, mean nll {:.6f} nats, {} tokens predicted in {} windows\n",
               result.perplexity, result.mean_nll, result.predicted, result.nll_per_window.size());
  }
  return 0;
}

}  // namespace

void add_perplexity(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand("perplexity", "Tell how well a model predicts given tokens");
  const auto arguments = std::make_shared<PerplexityArguments>();
  arguments->model.add_to(*command);
  command
      ->add_option("--ids", arguments->ids_file,
                   "A JSON list of token ids, or a list of lists that are taken separately")
      ->check(not_empty())
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--window", arguments->window,
                   "Tokens that a prediction may look back at: ids are cut into such pieces")
      ->check(whole_number(2, std::int64_t{1} << 31))
      ->capture_default_str()
      ->type_name("N");
  command->add_flag("--json", arguments->json,
                    "Print one object: perplexity, mean_nll, predicted_tokens, window, nll_per_window");
  command->callback([&action, arguments] { action = [arguments] { return perplexity(*arguments); }; });
}

}  // namespace fathom::cli
