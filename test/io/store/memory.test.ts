import { MemoryStore } from "../../../src/io/store/memory.ts";
import { storeConformance } from "./conformance.ts";

storeConformance("memory", () => {
  const store = new MemoryStore();
  return { open: () => store };
});
