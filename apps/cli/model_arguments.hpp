// The options that several commands share.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "fathom/core/context.hpp"
#include "fathom/engine/model.hpp"
#include "fathom/engine/session.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace fathom::cli {

/// --threads and --invariant
struct ThreadArgument {
  int threads = -1;  // -1: as FATHOM_THREADS says
  bool invariant = false;
  void add_to(CLI::App& command);
  /// The options of the environment, with what is given here. Throws InvalidArgument.
  ContextOptions options() const;
};

/// --kernel-pack, for commands that need kernels.
CLI::Option* add_kernel_pack(CLI::App& command, std::string& file);

/// --model, --precision, --kv-cache, --prefill-chunk and --threads
struct ModelArguments {
  std::string directory;
  std::string precision = "fp8";
  std::string kv_cache;
  SessionOptions session;
  ThreadArgument threads;

  void add_to(CLI::App& command);
  ModelOptions options() const;
};

/// A model with the context it runs on and a session, which point to one another and therefore stay in place.
struct LoadedModel {
  /// Shows a progress bar while it loads.
  explicit LoadedModel(const ModelArguments& arguments);
  LoadedModel(const LoadedModel&) = delete;
  LoadedModel& operator=(const LoadedModel&) = delete;

  double load_seconds = 0;  // set while the model loads, so declared before it
  Context context;
  Model model;
  Session session;
};

/// A JSON file with a list of token ids. Throws FileError if it is anything else or the list is empty.
std::vector<std::int32_t> read_ids(const std::string& file);
/// The same, or a list of such lists, none of them with less than `least` ids.
std::vector<std::vector<std::int32_t>> read_id_lists(const std::string& file, std::size_t least);
/// Throws FileError naming the first id that is outside of the model's vocabulary.
void check_ids(const std::string& file, const std::vector<std::int32_t>& ids, const Model& model);

}  // namespace fathom::cli
