// The commands of the fathom program, one file each.
#pragma once
#include <functional>

namespace CLI {
class App;
}

namespace fathom::cli {

/// What the arguments asked for: set by the chosen command's parser, run once parsing is over. Returns the
/// exit code.
using Action = std::function<int()>;

void add_generate(CLI::App& program, Action& action);
void add_logits(CLI::App& program, Action& action);
void add_perplexity(CLI::App& program, Action& action);
void add_info(CLI::App& program, Action& action);
void add_bench(CLI::App& program, Action& action);
void add_ops(CLI::App& program, Action& action);
void add_kernels(CLI::App& program, Action& action);
void add_warmup(CLI::App& program, Action& action);

}  // namespace fathom::cli
