import { realKubelet } from "./kinds.ts";
import { kubeletSuite } from "./suite.ts";

await kubeletSuite(realKubelet);
