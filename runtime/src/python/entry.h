// An Entry is one compiled signature of a jitted function as plain data: the structure of the
// arguments, the guard table of what the trace read from outside, where the Program's inputs come
// from and what becomes of its outputs. Python makes the data; deepseek/compiler/entry.py says what
// it means.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "deepseek/buffer.h"
#include "deepseek/program.h"
#include "frontend.h"

namespace deepseek::python {

constexpr size_t kNone = static_cast<size_t>(-1);

// Pointers to Python objects are borrowed from the entry's `plan`, unless said otherwise.

// The structure of arguments or results, depth first.
struct Item {
  enum class Kind : uint8_t {
    kTensor,
    kNumber,
    kGenerator,
    kSize,
    kSequence,
    kDict,
    kSame,   // by value: `object` as guards.copied has it
    kIs,     // by identity
    kCopied  // in results: a container that every call gives a copy of
  };
  struct Key {
    PyObject* object;
    PyObject* copied;  // to compare with; null where identity counts
  };
  Kind kind;
  PyObject* object = nullptr;  // the type of a number, sequence or dict; a static object
  size_t count = 0;            // parts of a sequence or dict
  std::vector<Key> keys;
};

struct Leaf {
  Item::Kind kind;
  size_t same;                // the first leaf that is the same object
  PyObject* type = nullptr;   // of a tensor without symbolic sizes
  PyObject* dtype = nullptr;  // of any tensor
  PyObject* requires_grad = nullptr;
  std::vector<int64_t> dims;   // a size, or ~symbol
  PyObject* pinned = nullptr;  // the value a number has to have
};

enum class Way : uint8_t { kHeld, kLeaf, kItem, kAttr, kOwn, kKind, kLookup, kCell, kSelf };
enum class Check : uint8_t {
  kFree,
  kIs,
  kEqual,
  kCopy,
  kKeys,
  kLength,
  kType,
  kArray,
  kSame,
  kShows
};
enum class Attr : uint8_t { kOther, kCode, kGlobals, kDefaults, kKwDefaults, kFunc, kSelf, kGrad };

struct Row {
  size_t parent;
  Way way;
  Check check;
  bool stays;
  bool filled = false;  // the parent's check puts the object in place
  Attr attr = Attr::kOther;
  PyObject* key;
  size_t index = 0;  // the key as a number: of a leaf, an element, a cell
  PyObject* expected;
  size_t other = 0;              // of kSame and kShows: a row
  PyObject* type = nullptr;      // of kKeys and kLength
  std::vector<PyObject*> keys;   // of kKeys
  size_t count = 0;              // of kKeys and kLength
  std::vector<size_t> elements;  // of kKeys and kLength: the elements' rows, or kNone
};

// The objects of the rows that stay, as they were when the whole table was last seen to hold.
struct Standing {
  std::vector<PyObject*> objects;  // owned, or null
  long version = -1;               // of the structure then

  Standing() = default;
  Standing(const Standing&) = delete;
  Standing& operator=(const Standing&) = delete;
  ~Standing() {
    for (PyObject* object : objects) {
      Py_XDECREF(object);
    }
  }
};

struct Source {
  enum class Kind : uint8_t { kTensor, kInt, kFloat, kSeed, kDraw };
  Kind kind;
  bool checked;  // a tensor from outside: its type has to be looked at
  size_t row;
  PyObject* type;
  PyObject* requires_grad;
  std::shared_ptr<Buffer> scalar;  // reused while nobody else holds it
};

struct Rebound {
  size_t row;
  size_t output;
  PyObject* requires_grad;
};

struct Gradient {
  size_t row;
  size_t output;    // or kNone
  PyObject* other;  // what it is then
};

struct Draws {
  size_t row;
  int64_t count;
};

struct Donated {
  size_t input;
  size_t output;
  bool gradient;
  Py_ssize_t references;  // to a gradient's handle, where only its owner and the call have it
};

// What a tuple of sizes means: nothing else has to be computed when it comes again.
struct Admitted {
  bool ok = false;
  std::vector<PyObject*> types;  // of the outputs
  std::vector<PyObject*> sizes;  // among the results
  py::object holder;
};

struct Entry {
  py::object plan;
  std::vector<PyObject*> context;
  size_t positional = 0;
  std::vector<Item::Key> keywords;
  std::vector<Item> arguments;
  std::vector<Leaf> leaves;
  size_t num_symbols = 0;
  std::map<std::vector<int64_t>, std::shared_ptr<const Admitted>> admitted;

  std::vector<Row> rows;
  std::vector<size_t> hot;  // the rows that do not stay
  std::shared_ptr<const Standing> standing;

  std::vector<Source> inputs;
  std::vector<std::pair<size_t, bool>> distinct;  // rows of tensors, and whether they are written
  std::vector<size_t> written;  // inputs whose tensors the call gives other values
  std::vector<Donated> donated;
  std::vector<size_t> donors;  // of the outputs: the input whose buffer they may take, or kNone
  std::vector<Rebound> rebound;
  std::vector<Gradient> grads;
  std::vector<Draws> draws;
  std::vector<PyObject*> effects;                      // called after each call
  std::vector<std::pair<size_t, PyObject*>> returned;  // output, requires_grad
  std::vector<Item> result;
  bool linked = false;  // gradients flow back through the call

  std::shared_ptr<Program> program;  // or else `runner` is called
  py::object runner;
  std::vector<int> sources;  // of the outputs: the Program's output, or ~input
  bool as_made = false;      // the outputs are the Program's, in its order
  py::object prepared;       // None, or computes further inputs
  std::vector<int> prepared_from;
  std::vector<uint64_t> prepared_versions;
  std::vector<std::shared_ptr<Buffer>> prepared_inputs;
};

// Reads an entry of deepseek.compiler.entry.
std::shared_ptr<Entry> make_entry(py::handle plan);

}  // namespace deepseek::python
