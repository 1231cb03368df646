// Walks over recorded nodes: what is pending under values that somebody looks at, and the history
// that a gradient goes back through. Each gives the nodes in recorded order and a key, equal where
// the same was recorded in the same way; it takes a few table lookups a node, and no Python.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "frontend.h"

namespace deepseek::python {

// Objects by number, in the order they were added; borrowed. An open hash table.
class Numbering {
 public:
  static constexpr uint32_t kUnknown = static_cast<uint32_t>(-1);

  uint32_t find(PyObject* object) const;
  bool add(PyObject* object);  // whether it is new
  size_t size() const { return objects_.size(); }
  PyObject* operator[](size_t number) const { return objects_[number]; }
  const std::vector<PyObject*>& objects() const { return objects_; }

 private:
  size_t place(PyObject* object) const;
  void grow();

  std::vector<PyObject*> objects_;
  std::vector<uint32_t> table_;  // a power of two of numbers, or kUnknown
};

// The nodes of a walk in recorded order, and the values that they read and make, numbered as they
// are met. The key is empty where a node has an attribute that cannot be compared.
struct Walk {
  std::vector<py::object> nodes;
  Numbering values;
  std::string key;
};

// What has to be computed.
struct Pending : Walk {
  std::vector<uint32_t> inputs;  // numbers of values: those that are computed already
  std::vector<uint32_t> shown;   // those that are wanted, or that a Tensor still shows

  explicit Pending(const py::sequence& wanted);
};

// What a gradient of a value flows back through.
struct History : Walk {
  std::vector<uint32_t> leaves;  // numbers of values: where gradients arrive
  py::object top;                // holds them all

  History(py::object value, bool keyed);
  // Lets it go: nothing of it can be differentiated again.
  void forget() const;
};

}  // namespace deepseek::python
