// Dispatch: one call of a jitted function, from its arguments to its results.
//
// An Entry is one compiled signature as plain data: the structure of the arguments, the guard table
// of what the trace read from outside, where the Program's inputs come from and what becomes of its
// outputs. Python makes the data (deepseek/compiler/entry.py says what it means); here a call is
// held against it, bound, run and shown. All of it happens under the GIL but the run.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "bindings.h"
#include "deepseek/buffer.h"
#include "deepseek/program.h"

namespace deepseek::python {

// What the dispatcher knows of the package's Python classes; set once by `configure_dispatch`.
struct Frontend {
  PyTypeObject* tensor = nullptr;
  PyTypeObject* value = nullptr;
  PyTypeObject* generator = nullptr;
  PyTypeObject* array = nullptr;     // numpy.ndarray
  PyTypeObject* floating = nullptr;  // numpy.floating
  PyObject* input_node = nullptr;    // the producer of values without a history
  PyObject* missing = nullptr;       // stands for what is not there
  PyObject* structure = nullptr;     // counts the changes to Modules
  PyObject* recording = nullptr;     // per thread: the trace that goes on, gradients, autocast
  PyObject* options = nullptr;       // per thread
  PyObject* same = nullptr;          // compares plain values
  PyObject* same_array = nullptr;
  PyObject* as_tensor = nullptr;  // an array as a tensor
  PyObject* settle = nullptr;     // computes what pending tensors show
  // Where the slots lie in instances.
  Py_ssize_t tensor_value = 0;
  Py_ssize_t tensor_grad = 0;
  Py_ssize_t value_node = 0;
  Py_ssize_t value_index = 0;
  Py_ssize_t value_type = 0;
  Py_ssize_t value_data = 0;
  Py_ssize_t value_handle = 0;
  Py_ssize_t value_requires_grad = 0;
  Py_ssize_t type_dtype = 0;
  Py_ssize_t type_shape = 0;
};

extern Frontend frontend;

inline PyObject*& slot(PyObject* object, Py_ssize_t offset) {
  return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset);
}

inline void set_slot(PyObject* object, Py_ssize_t offset, PyObject* owned) {
  PyObject* before = std::exchange(slot(object, offset), owned);
  Py_XDECREF(before);
}

inline PyObject* value_of(PyObject* tensor) {
  return slot(tensor, frontend.tensor_value);
}

inline bool is_tensor(PyObject* object) {
  return PyObject_TypeCheck(object, frontend.tensor);
}

// The attribute names used at every call, interned.
struct Names {
  PyObject* trace = PyUnicode_InternFromString("trace");
  PyObject* grad = PyUnicode_InternFromString("grad");
  PyObject* autocast = PyUnicode_InternFromString("autocast");
  PyObject* backend = PyUnicode_InternFromString("backend");
  PyObject* cpu_level = PyUnicode_InternFromString("cpu_level");
  PyObject* version = PyUnicode_InternFromString("version");
  PyObject* seed = PyUnicode_InternFromString("seed");
  PyObject* draws = PyUnicode_InternFromString("draws");
};

const Names& names();

// ---- an entry ----------------------------------------------------------------------------------
// Pointers to Python objects are borrowed from `plan`, unless said otherwise.

// The structure of arguments or results, depth first.
struct Item {
  enum class Kind : uint8_t { kTensor, kNumber, kGenerator, kSize, kSequence, kDict, kSame, kIs };
  Kind kind;
  PyObject* object = nullptr;  // the type of a number, sequence or dict; a static object
  size_t count = 0;            // parts of a sequence or dict
  std::vector<PyObject*> keys;
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

constexpr size_t kNone = static_cast<size_t>(-1);

struct Binding {
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
  std::vector<PyObject*> keywords;
  std::vector<Item> arguments;
  std::vector<Leaf> leaves;
  size_t num_symbols = 0;
  std::map<std::vector<int64_t>, std::shared_ptr<const Admitted>> admitted;

  std::vector<Row> rows;
  std::vector<size_t> hot;          // the rows that do not stay
  std::vector<PyObject*> standing;  // objects of the rows that stay; owned
  long version = -1;                // of the structure that they were looked at for
  bool careful = false;             // Python code may run while the table is walked

  std::vector<Binding> bindings;
  std::vector<std::pair<size_t, bool>> distinct;  // rows of tensors, and whether they are written
  std::vector<size_t> written;  // inputs whose tensors the call gives other values
  std::vector<Donated> donated;
  std::vector<size_t> donors;  // of the outputs: the input whose buffer they may take, or kNone
  std::vector<Rebound> rebound;
  std::vector<Gradient> grads;
  std::vector<Draws> draws;
  std::vector<py::object> effects;  // called after each call
  std::vector<std::pair<size_t, PyObject*>> returned;  // output, requires_grad
  std::vector<Item> result;
  bool linked = false;  // gradients flow back through the call

  std::shared_ptr<Program> program;  // or else `runner` is called
  py::object runner;
  std::vector<int> sources;  // of the outputs: the Program's output, or ~input
  py::object prepared;       // None, or computes further inputs
  std::vector<int> prepared_from;
  std::vector<uint64_t> prepared_versions;
  std::vector<std::shared_ptr<Buffer>> prepared_inputs;

  Entry() = default;
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  ~Entry();
};

// Reads an entry of deepseek.compiler.entry.
std::shared_ptr<Entry> make_entry(py::handle plan);

// ---- a call ------------------------------------------------------------------------------------

struct Arguments {
  PyObject* const* values;  // positional, then by keyword
  size_t positional;
  PyObject* keywords;  // a tuple of names, or null
};

// What one call gathers; frames are kept, so that their vectors need no memory of their own.
struct Frame {
  std::vector<PyObject*> leaves;
  std::vector<std::pair<PyObject*, py::object>> converted;  // arrays as tensors
  std::vector<PyObject*> objects;                           // of the rows
  std::vector<py::object> owned;                            // what nobody else may hold
  std::vector<int64_t> sizes;
  std::shared_ptr<const Admitted> admitted;
  std::vector<PyObject*> seen;  // a hash set
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<char> donate;
  std::vector<std::pair<py::object, int64_t>> reserved;  // generators, and their draws before

  void clear();
};

// Whether the call fits the entry; fills the frame's leaves, objects and sizes.
bool fits(Entry& entry, const Arguments& arguments, std::span<PyObject* const> context,
          Frame& frame);

// Runs a call that fits. Null if the call has to be held against the entries once more, because a
// tensor had to be computed first, or another call was writing to one.
py::object execute(Entry& entry, Frame& frame);

// Whether a plain value is what it was, numbers bit for bit.
bool same_plain(PyObject* object, PyObject* expected);

}  // namespace deepseek::python
