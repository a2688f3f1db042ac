#include "core/json.hpp"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "core/file.hpp"
#include "fathom/core/error.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

TEST(Json, KeepsEveryKindOfValue) {
  const std::string text =
      R"({"a":[1,-2,2.5,"x\u00e9",null,true],"b":{"c":[[],{}]},"big":18446744073709551615})";
  EXPECT_EQ(parse_json(text, "f.json"), Json::parse(text));
  EXPECT_EQ(parse_json("7", "f.json"), Json(7));
}

TEST(Json, NamesThePlaceOfASyntaxError) {
  EXPECT_ERROR(FileError, "f.json: broken JSON at line 2, column 7: syntax error",
               parse_json("{\n \"a\": }", "f.json"));
  EXPECT_ERROR(FileError, "f.json: broken JSON at line 1, column 1", parse_json("", "f.json"));
  EXPECT_ERROR(FileError, "f.json: broken JSON at line 1, column 3", parse_json("{}x", "f.json"));
  EXPECT_ERROR(FileError, "ill-formed UTF-8", parse_json("\"\xff\"", "f.json"));
  EXPECT_ERROR(FileError, "number overflow", parse_json("[1e999]", "f.json"));
}

TEST(Json, MessagesStayOnOneShortLine) {
  for (const std::string& text :
       {std::string(5000, 'a'), std::string("[\"a\n\x01\xff\xfe"), std::string("\"\xff"),
        "{\"" + std::string(3000, 'k') + "\":1,\"" + std::string(3000, 'k') + "\":1}"}) {
    try {
      parse_json(text, "f.json");
      ADD_FAILURE();
    } catch (const FileError& error) {
      const std::string message = error.what();
      EXPECT_LT(message.size(), 260u) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      EXPECT_NO_THROW(Json(message).dump()) << "not UTF-8";
    }
  }
}

TEST(Json, RefusesDuplicatesAndDepth) {
  EXPECT_ERROR(FileError, "f.json: the key 'a' occurs twice in one object",
               parse_json(R"({"a":1,"a":1})", "f.json"));
  EXPECT_ERROR(FileError, "'b' occurs twice", parse_json(R"([{"x":{"b":1,"c":{"b":2},"b":3}}])", "f.json"));
  EXPECT_NO_THROW(parse_json(R"({"a":{"a":{"a":1}}})", "f.json"));
  EXPECT_NO_THROW(parse_json("[[[]]]", "f.json", {.max_depth = 3}));
  EXPECT_ERROR(FileError, "at most 3", parse_json("[[[[", "f.json", {.max_depth = 3}));
  EXPECT_ERROR(FileError, "at most 64", parse_json(std::string(1000000, '['), "f.json"));
  EXPECT_ERROR(FileError, "at most 4 bytes, has 5", parse_json("12345", "f.json", {.max_bytes = 4}));
}

TEST(JsonObject, GettersNameFileKeyExpectationAndValue) {
  const Json json =
      parse_json(R"({"n":5,"f":1.5,"s":"text","b":true,"nothing":null,"big":18446744073709551615,
                                   "o":{"n":"x"},"l":[1,2,"y"]})",
                 "c.json");
  const JsonObject object(json, "c.json");
  EXPECT_EQ(object.integer("n", 1, 5), 5);
  EXPECT_EQ(object.integer("m", 1, 5, 3), 3);
  EXPECT_EQ(object.integer("nothing", 1, 5, 3), 3);
  EXPECT_EQ(object.number("f", 0, 2), 1.5);
  EXPECT_EQ(object.number("n", 0, 9), 5);
  EXPECT_EQ(object.string("s"), "text");
  EXPECT_TRUE(object.boolean("b"));
  EXPECT_FALSE(object.has("nothing"));
  EXPECT_ERROR(FileError, "c.json: 'n' must be an integer from 6 to 9, got 5", object.integer("n", 6, 9));
  EXPECT_ERROR(FileError, "c.json: 'm' must be an integer from 0 to 9, got nothing",
               object.integer("m", 0, 9));
  EXPECT_ERROR(FileError, "'f' must be an integer from 0 to 9, got 1.5", object.integer("f", 0, 9));
  EXPECT_ERROR(FileError, "got 18446744073709551615", object.integer("big", 0, 1));
  EXPECT_ERROR(FileError, "'f' must be a number from 2 to 3, got 1.5", object.number("f", 2, 3));
  EXPECT_ERROR(FileError, "'b' must be a string, got true", object.string("b"));
  EXPECT_ERROR(FileError, "'s' must be true or false, got 'text'", object.boolean("s"));
  EXPECT_ERROR(FileError, "'o.n' must be an integer from 0 to 1, got 'x'",
               object.object("o").integer("n", 0, 1));
  EXPECT_ERROR(FileError, "'l' must be an object, got a list of 3", object.object("l"));
  EXPECT_ERROR(FileError, "'o' must be a list, got an object", object.list("o"));
  EXPECT_ERROR(FileError, "'l' must be a list of integers from 0 to 9, got 'y' in it",
               object.integers("l", 0, 9));
  EXPECT_ERROR(FileError, "c.json: must hold a JSON object, holds a list of 0",
               JsonObject(Json::array(), "c.json"));
}

class FileTest : public ::testing::Test {
 protected:
  FileTest() {
    std::string name = (std::filesystem::temp_directory_path() / "fathom.XXXXXX").string();
    directory_ = ::mkdtemp(name.data());
  }
  ~FileTest() override { std::filesystem::remove_all(directory_); }
  std::filesystem::path directory_;
};

TEST_F(FileTest, ReadsAndMapsRegularFilesOnly) {
  std::ofstream(directory_ / "a") << "hello";
  std::ofstream(directory_ / "empty");
  std::filesystem::create_symlink("a", directory_ / "link");
  std::filesystem::create_symlink("loop", directory_ / "loop");
  ASSERT_EQ(::mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  EXPECT_EQ(read_file(directory_ / "a", 5), "hello");
  EXPECT_EQ(read_file(directory_ / "link", 5), "hello");
  EXPECT_EQ(read_file(directory_ / "empty", 5), "");
  EXPECT_ERROR(FileError, "a: must have at most 4 bytes, has 5", read_file(directory_ / "a", 4));
  const MappedFile mapped(directory_ / "a");
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(mapped.data()), 5), "hello");
  EXPECT_EQ(mapped.size(), 5);
  EXPECT_EQ(MappedFile(directory_ / "empty").size(), 0);
  for (const char* name : {"missing", "loop", "fifo", "."}) {
    EXPECT_ERROR(FileError, (directory_ / name).string(), read_file(directory_ / name, 5));
    EXPECT_ERROR(FileError, (directory_ / name).string(), MappedFile(directory_ / name));
  }
}

TEST_F(FileTest, AtomicFileShowsAllOrNothing) {
  const auto target = directory_ / "out";
  std::ofstream(target) << "old";
  {
    AtomicFile file(target);
    file.write("new");
  }
  EXPECT_EQ(read_file(target, 9), "old");
  {
    AtomicFile file(target);
    file.write("new");
    file.write(" text");
    EXPECT_EQ(read_file(target, 9), "old");
    file.commit();
  }
  EXPECT_EQ(read_file(target, 9), "new text");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_), {}), 1)
      << "a temporary file stayed";
  EXPECT_ERROR(FileError, "is a directory", AtomicFile(directory_.string()));
  EXPECT_ERROR(FileError, "cannot be written: No such file", AtomicFile(directory_ / "missing" / "out"));
}

TEST_F(FileTest, AtomicFileLeavesNothingWhenTheDiskIsFull) {
  std::ofstream(directory_ / "out") << "old";
  rlimit usual{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &usual), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);  // then write() fails as on a full disk
  const rlimit limit{.rlim_cur = 4096, .rlim_max = usual.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  EXPECT_ERROR(EnvironmentError, (directory_ / "out").string() + ": cannot be written: ", {
    AtomicFile file(directory_ / "out");
    file.write(std::string(10000, 'x'));
    file.commit();
  });
  ::setrlimit(RLIMIT_FSIZE, &usual);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_file(directory_ / "out", 9), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_), {}), 1)
      << "a temporary file stayed";
}

}  // namespace
}  // namespace fathom
