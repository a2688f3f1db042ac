#include "model_arguments.hpp"

#include <CLI/CLI.hpp>

namespace fathom::cli {

void ThreadArgument::add_to(CLI::App& command) {
  command.add_option("--threads", threads, "Threads to use; 0: one per core (default: FATHOM_THREADS)")
      ->check(CLI::Range(0, 4096))
      ->type_name("N");
}

ContextOptions ThreadArgument::options() const {
  ContextOptions options = ContextOptions::from_environment();
  if (threads >= 0) options.threads = threads;
  return options;
}

}  // namespace fathom::cli
