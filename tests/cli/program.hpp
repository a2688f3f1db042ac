// Runs the fathom program as a user does, and tells what came of it.
#pragma once
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/checkpoint_writer.hpp"

namespace fathom::cli_test {

struct Outcome {
  int code = -1;  // exit code, or minus the signal that ended it
  std::string out;
  std::string err;
};

struct FathomOptions {
  std::map<std::string, std::string> environment;  // besides the test's own
  std::string stdout_file;                         // instead of `out`
  std::string stderr_file;                         // instead of `err`
  bool closed = false;                             // neither stdout nor stderr is open
  bool terminal = false;                           // stderr is a terminal
  int interrupt_after_ms = 0;                      // send SIGINT after such a silence; 0: never
  std::size_t interrupt_after = 0;                 // send SIGINT once so many bytes are in `out`; 0: never
};

Outcome fathom(const std::vector<std::string>& arguments, const FathomOptions& options = {});

/// Bad input: exit code 2, nothing on stdout, and on stderr one line that holds `text`.
void expect_refused(const Outcome& run, const std::string& text);
/// Exit code 0. Shows stderr otherwise.
void expect_done(const Outcome& run);

/// The repository's model.
std::string bundled_model();
/// A small random model with the bundled tokenizer, made once per test program.
const std::filesystem::path& random_model();
/// A copy of random_model() to break.
void copy_random_model(const std::filesystem::path& to);

void write_text(const std::filesystem::path& file, const std::string& text);
std::string read_text(const std::filesystem::path& file);
/// Names in a folder, sorted.
std::vector<std::string> names_in(const std::filesystem::path& folder);

}  // namespace fathom::cli_test
